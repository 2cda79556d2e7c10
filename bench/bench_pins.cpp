// What pins cost: pinning itself, by one thread and by two, and a fork (freeze and adopt) of an address space by how
// many of its pages are pinned. The engine alone, without exits. bench_pins [Google Benchmark's options]
#include <benchmark/benchmark.h>

#include <algorithm>
#include <barrier>

#include "bench/engine.hpp"
#include "guest-mm/frozen_memory.hpp"
#include "guest-mm/pin.hpp"

namespace ramet::mm::bench {
namespace {

constexpr std::uint64_t kBytes = 64 << 20;

// An engine that may share memory with others of `all`.
Engine member(const std::shared_ptr<PhysicalSpace>& all, bool pinned_cow = true) {
  return Engine({.blocks = false, .pinned_cow = pinned_cow}, 4 * kBytes, std::make_unique<NoTlb>(), all);
}
Engine filled(const std::shared_ptr<PhysicalSpace>& all, bool pinned_cow = true) {
  Engine e = member(all, pinned_cow);
  e.map(kAt, kBytes);
  e.touch(kAt, kBytes);
  return e;
}

// Nanoseconds of one fork. The child is created before, as a warm shell is.
double fork_once(Engine& parent, const std::shared_ptr<PhysicalSpace>& all) {
  Engine child = member(all);
  return nanoseconds([&] {
    auto snapshot = parent.space->freeze().value();
    check(child.space->adopt(snapshot).has_value());
  });
}

void fork(benchmark::State& state) {
  const auto all = std::make_shared<PhysicalSpace>();
  Engine parent = filled(all);
  const auto pages = static_cast<std::uint64_t>(state.range(0));
  Pin pin;
  if (pages) pin = parent.space->pin(kAt, pages * kPageSize, Access::Write, AddressSpace::PinTerm::Long).value();
  Samples times;
  for (auto _ : state) {
    times.add(fork_once(parent, all));
    state.SetIterationTime(times.values.back() / 1e9);
  }
  state.counters["median_us"] = times.median() / 1e3;
  if (pages) state.counters["us_a_page"] = times.median() / 1e3 / double(pages);
}

// Forks of a space that has never been pinned, with the technique pinned_cow and without, in turn.
void fork_never_pinned(benchmark::State& state) {
  const auto all = std::make_shared<PhysicalSpace>();
  Engine with = filled(all, true), without = filled(all, false);
  Samples on, off;
  for (auto _ : state) {
    on.add(fork_once(with, all));
    off.add(fork_once(without, all));
    state.SetIterationTime(on.values.back() / 1e9);
  }
  state.counters["on_us"] = on.median() / 1e3;
  state.counters["off_us"] = off.median() / 1e3;
  state.counters["ratio"] = ratio(on, off);
}

// Calls in a nanosecond, of all threads together: each makes `work(thread, i)` for each i below `count`.
template <class Work>
double rate(unsigned threads, unsigned count, Work&& work) {
  std::barrier start(threads);
  std::vector<double> took(threads);
  {
    std::vector<std::jthread> all;
    for (unsigned t = 0; t < threads; ++t) {
      all.emplace_back([&, t] {
        stay_on_processor(t);
        start.arrive_and_wait();
        took[t] = nanoseconds([&] {
          for (unsigned i = 0; i < count; ++i) work(t, i);
        });
      });
    }
  }
  return threads * count / *std::ranges::max_element(took);
}

// By one thread and by two, each with pages of its own; beside them work that shares nothing, which says how much two
// processors of this machine can do at all.
void fast_pins(benchmark::State& state) {
  Engine vm = filled(std::make_shared<PhysicalSpace>());
  const auto pin = [&](unsigned t, unsigned i) {
    const Gva page = kAt + t * (kBytes / 2) + i % 1024 * kPageSize;
    benchmark::DoNotOptimize(vm.space->pin(page, kPageSize, Access::Write, AddressSpace::PinTerm::Short).value());
  };
  const auto nothing_shared = [](unsigned, unsigned i) {
    unsigned long n = i;
    for (unsigned k = 0; k < 50; ++k) benchmark::DoNotOptimize(n = n * 6364136223846793005u + 1);
  };
  constexpr unsigned kTimes = 200'000;
  Samples one, two, alone, both;
  for (auto _ : state) {
    state.SetIterationTime(1e-9 * nanoseconds([&] {
                             one.add(rate(1, kTimes, pin)), two.add(rate(2, kTimes, pin));
                             alone.add(rate(1, kTimes, nothing_shared)), both.add(rate(2, kTimes, nothing_shared));
                           }));
  }
  state.counters["one_ns"] = 1 / one.median();
  state.counters["two_ns"] = 1 / two.median();
  state.counters["two_to_one"] = ratio(two, one);
  state.counters["nothing_shared_two_to_one"] = ratio(both, alone);
}

BENCHMARK(fork)->Arg(0)->Arg(1)->Arg(256)->Arg(4096)->UseManualTime()->Iterations(60)->Unit(benchmark::kMicrosecond);
BENCHMARK(fork_never_pinned)->UseManualTime()->Iterations(200)->Unit(benchmark::kMicrosecond);
BENCHMARK(fast_pins)->UseManualTime()->Iterations(15)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace ramet::mm::bench
