// What a fault costs the engine: without the address-space lock (speculative), with it (classic), and in Linux; alone,
// and while other threads fault, map and unmap. Frames are recycled, so that both sides clear memory they have.
#include <benchmark/benchmark.h>

#include <array>

#include "bench/engine.hpp"

namespace {

using namespace ramet::mm;
using namespace ramet::mm::bench;

double rate(std::uint64_t part, std::uint64_t whole) { return whole ? double(part) / double(whole) : 0; }

// --- one thread ---

// Pages of a table that fault once per round. The last window of the table stays mapped, or dropping the others would
// take the table away, and the first fault after that is classic by design.
struct Pattern {
  unsigned around;                   // Config::around_pages
  unsigned tables;
  unsigned faults_per_table, stride; // pages; strides keep the window of fault-around from growing
  std::uint64_t dropped() const { return kBlockSize - 16 * kPageSize; }
  template <class At>
  void each(At&& at) const {
    for (unsigned t = 0; t < tables; ++t)
      for (unsigned i = 0; i < faults_per_table; ++i) at(kAt + t * kBlockSize + i * stride * kPageSize);
  }
  unsigned faults() const { return tables * faults_per_table; }
};

struct OneThread : Engine {
  const Pattern p;
  OneThread(bool speculative, Pattern pattern)
      : Engine({.blocks = false, .speculative_faults = speculative, .around_pages = pattern.around}), p(pattern) {
    map(kAt, p.tables * kBlockSize);
    touch(kAt, p.tables * kBlockSize);
    clear();
  }
  void clear() {
    for (unsigned t = 0; t < p.tables; ++t) drop(kAt + t * kBlockSize, p.dropped());
  }
  double round() {
    clear();
    return nanoseconds([&] { p.each([&](Gva va) { fault(va); }); }) / p.faults();
  }
};

double native_round(const Pattern& p) {
  for (unsigned t = 0; t < p.tables; ++t) {
    check(::madvise(reinterpret_cast<void*>(kAt + t * kBlockSize), p.dropped(), MADV_DONTNEED) == 0);
  }
  return nanoseconds([&] { p.each([&](Gva va) { native_touch(va); }); }) / p.faults();
}

void one_thread(benchmark::State& state, Pattern pattern) {
  OneThread speculative(true, pattern), classic(false, pattern);
  char* const mapping = native_map(kAt, pattern.tables * kBlockSize, MADV_NOHUGEPAGE);
  for (unsigned t = 0; t < pattern.tables; ++t) native_touch(kAt + (t + 1) * kBlockSize - kPageSize);
  native_round(pattern);
  const std::uint64_t faults = speculative.space->counters().faults, spf = speculative.space->counters().spf;
  Samples s, c, n;
  for (auto _ : state) {
    s.add(speculative.round());
    c.add(classic.round());
    n.add(native_round(pattern));
    state.SetIterationTime(1e-9 * (s.values.back() + c.values.back() + n.values.back()) * pattern.faults());
  }
  const Counters& counters = speculative.space->counters();
  state.counters["speculative_ns"] = s.median();
  state.counters["classic_ns"] = c.median();
  state.counters["ratio"] = ratio(s, c);
  state.counters["linux_ns"] = n.median();
  state.counters["settled"] = double(counters.spf - spf) / double(counters.faults - faults);
  ::munmap(mapping, pattern.tables * kBlockSize);
}
// A page a fault; and fault-around's window of 16, of which Linux has to fault each page.
BENCHMARK_CAPTURE(one_thread, page_1M, Pattern{1, 1, 256, 1})->UseManualTime()->MinTime(2);
BENCHMARK_CAPTURE(one_thread, page_16M, Pattern{1, 16, 256, 1})->UseManualTime()->MinTime(2);
BENCHMARK_CAPTURE(one_thread, around_16, Pattern{16, 32, 3, 64})->UseManualTime()->MinTime(2);

// The engine's own part: frames that are zero already, so that nothing is cleared. Beside Linux, which has to clear.
void ready_frames(benchmark::State& state) {
  const Pattern p{1, 1, 256, 1};
  char* const mapping = native_map(kAt, kBlockSize, MADV_NOHUGEPAGE);
  native_touch(kAt + kBlockSize - kPageSize);
  const auto fresh_round = [&](bool speculative) {
    Engine e({.blocks = false, .speculative_faults = speculative, .around_pages = 1}, 64 << 20);
    e.map(kAt, kBlockSize);
    e.fault(kAt + kBlockSize - kPageSize);  // the table is there
    return nanoseconds([&] { p.each([&](Gva va) { e.fault(va); }); }) / p.faults();
  };
  Samples s, c, n;
  for (auto _ : state) {
    s.add(fresh_round(true));
    c.add(fresh_round(false));
    n.add(native_round(p));
    state.SetIterationTime(1e-9 * s.values.back());
  }
  state.counters["speculative_ns"] = s.median();
  state.counters["classic_ns"] = c.median();
  state.counters["ratio"] = ratio(s, c);
  state.counters["linux_ns"] = n.median();
  ::munmap(mapping, kBlockSize);
}
BENCHMARK(ready_frames)->UseManualTime()->Iterations(1000)->Unit(benchmark::kNanosecond);

// --- two threads fault, a third maps and unmaps elsewhere ---

constexpr std::uint64_t kRegion = 2 * kBlockSize;   // of each faulting thread
constexpr std::uint64_t kElsewhere = 64 * kPageSize;  // of the third thread
constexpr auto kPiece = std::chrono::milliseconds(100);

struct Storm {
  Engine engine;
  std::atomic<bool> stop{false};  // nothing else depends on it
  explicit Storm(bool speculative) : engine({.blocks = false, .speculative_faults = speculative, .around_pages = 1}) {
    for (unsigned i = 0; i < 2; ++i) engine.map(region(i), kRegion), engine.touch(region(i), kRegion);
  }
  static Gva region(unsigned thread) { return kAt + thread * 2 * kRegion; }
  static Gva elsewhere() { return kAt + 8 * kRegion; }
  bool going() const { return !stop.load(std::memory_order_relaxed); }
  struct Done {
    std::uint64_t faults, maps;
  };
  Done piece(bool mapping) {
    std::array<std::uint64_t, 2> faults{};
    std::uint64_t maps = 0;
    stop = false;
    {
      std::vector<std::jthread> threads;
      for (unsigned i = 0; i < 2; ++i) {
        threads.emplace_back([&, i] {
          stay_on_processor(i);
          std::uint64_t n = 0;
          while (going()) {
            engine.drop(region(i), kRegion);
            for (Gva va = region(i); va < region(i) + kRegion && going(); va += kPageSize, ++n) engine.fault(va);
          }
          faults[i] = n;
        });
      }
      if (mapping)
        threads.emplace_back([&] {
          for (; going(); ++maps) engine.map(elsewhere(), kElsewhere, true), engine.unmap(elsewhere(), kElsewhere);
        });
      std::this_thread::sleep_for(kPiece);
      stop = true;
    }
    return {faults[0] + faults[1], maps};
  }
};

void storm(benchmark::State& state, bool mapping) {
  Storm speculative(true), classic(false);
  Samples s, c, s_maps, c_maps;
  const double per_second = 1.0 / std::chrono::duration<double>(kPiece).count();
  for (auto _ : state) {
    const auto a = speculative.piece(mapping), b = classic.piece(mapping);
    s.add(double(a.faults) * per_second), s_maps.add(double(a.maps) * per_second);
    c.add(double(b.faults) * per_second), c_maps.add(double(b.maps) * per_second);
  }
  const Counters& n = speculative.engine.space->counters();
  state.counters["speculative_faults_per_s"] = s.median();
  state.counters["classic_faults_per_s"] = c.median();
  state.counters["ratio"] = ratio(s, c);
  state.counters["speculative_maps_per_s"] = s_maps.median();
  state.counters["classic_maps_per_s"] = c_maps.median();
  state.counters["settled"] = rate(n.spf, n.faults);
  // The table of the Linux proposal (Dufour 2018).
  state.counters["faults"] = double(n.faults);
  state.counters["spf"] = double(n.spf);
  state.counters["spf_pte_lock"] = double(n.spf_pte_lock);
  state.counters["spf_region_changed"] = double(n.spf_region_changed);
  state.counters["spf_not_supported"] = double(n.spf_not_supported);
  state.counters["spf_table_changed"] = double(n.spf_table_changed);
  state.counters["spf_budget"] = double(n.spf_budget);
}
BENCHMARK_CAPTURE(storm, two_fault_one_maps, true)->Iterations(25)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(storm, two_fault, false)->Iterations(10)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
