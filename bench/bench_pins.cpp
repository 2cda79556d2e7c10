// What pins cost: pinning itself, by one thread and by two, and a fork (freeze and adopt) of an address space by how
// many of its pages are pinned. The engine alone, without exits. bench_pins [Google Benchmark's options]
#include <benchmark/benchmark.h>

#include <barrier>

#include "bench/engine.hpp"
#include "guest-mm/pin.hpp"
#include "guest-mm/snapshot.hpp"

namespace ramet::mm::bench {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::uint64_t kBytes = 64 << 20;

// VMs that may share memory.
struct Member {
  NoTlb tlb;
  std::unique_ptr<Memory> memory;
  std::unique_ptr<AddressSpace> space;
  explicit Member(const std::shared_ptr<PhysicalSpace>& all, bool pinned_cow = true) {
    memory = std::move(Memory::create({.data_bytes = 4 * kBytes, .table_bytes = 16 << 20, .space = all}).value());
    space = std::move(AddressSpace::create({.blocks = false, .pinned_cow = pinned_cow}, *memory, tlb).value());
  }
  void fill() {
    check(space->map({.address = kAt, .length = kBytes, .prot = kReadWrite, .fixed = true}).has_value());
    for (Gva va = kAt; va < kAt + kBytes; va += kPageSize) *space->word(va).value().word = 1;
  }
};

double microseconds(Clock::duration d) { return std::chrono::duration<double, std::micro>(d).count(); }

double median(std::vector<double> all) {
  std::ranges::nth_element(all, all.begin() + static_cast<long>(all.size() / 2));
  return all[all.size() / 2];
}

// One fork; the child is made before, as a warm shell is.
double fork_once(Member& parent, const std::shared_ptr<PhysicalSpace>& all) {
  Member child(all);
  const auto begin = Clock::now();
  auto snapshot = parent.space->freeze().value();
  check(child.space->adopt(snapshot).has_value());
  return microseconds(Clock::now() - begin);
}

void fork(benchmark::State& state) {
  const auto all = std::make_shared<PhysicalSpace>();
  Member parent(all);
  parent.fill();
  const auto pages = static_cast<std::uint64_t>(state.range(0));
  Pin pin;
  if (pages) pin = parent.space->pin(kAt, pages * kPageSize, Access::Write, AddressSpace::PinTerm::Long).value();
  std::vector<double> times;
  for (auto _ : state) {
    times.push_back(fork_once(parent, all));
    state.SetIterationTime(times.back() / 1e6);
  }
  state.counters["median_us"] = median(times);
  if (pages) state.counters["us_a_page"] = median(times) / double(pages);
}

// A space that has never been pinned: with pins counted at all, and without the technique. In turn.
void fork_never_pinned(benchmark::State& state) {
  const auto all = std::make_shared<PhysicalSpace>();
  Member with(all, true), without(all, false);
  with.fill();
  without.fill();
  std::vector<double> on, off;
  for (auto _ : state) {
    on.push_back(fork_once(with, all));
    off.push_back(fork_once(without, all));
    state.SetIterationTime(on.back() / 1e6);
  }
  state.counters["on_us"] = median(on);
  state.counters["off_us"] = median(off);
  state.counters["ratio"] = median(on) / median(off);
}

// Pins a second, all threads together; each has pages of its own.
double pins_a_second(AddressSpace& space, unsigned threads) {
  constexpr unsigned kPins = 200'000;
  std::barrier start(threads + 1);
  std::vector<std::thread> all;
  for (unsigned t = 0; t < threads; ++t) {
    all.emplace_back([&, t] {
      start.arrive_and_wait();
      for (unsigned i = 0; i < kPins; ++i) {
        const Gva page = kAt + t * (kBytes / 2) + i % 1024 * kPageSize;
        benchmark::DoNotOptimize(space.pin(page, kPageSize, Access::Write, AddressSpace::PinTerm::Short).value());
      }
    });
  }
  start.arrive_and_wait();
  const auto begin = Clock::now();
  for (auto& t : all) t.join();
  return threads * kPins / microseconds(Clock::now() - begin) * 1e6;
}

void fast_pins(benchmark::State& state) {
  Member vm(std::make_shared<PhysicalSpace>());
  vm.fill();
  std::vector<double> one, two, ratio;
  for (auto _ : state) {
    const auto begin = Clock::now();
    one.push_back(pins_a_second(*vm.space, 1));
    two.push_back(pins_a_second(*vm.space, 2));
    ratio.push_back(two.back() / one.back());
    state.SetIterationTime(microseconds(Clock::now() - begin) / 1e6);
  }
  state.counters["one_ns"] = 1e9 / median(one);
  state.counters["two_ns"] = 1e9 / median(two);
  state.counters["two_to_one"] = median(ratio);
}

BENCHMARK(fork)->Arg(0)->Arg(1)->Arg(256)->Arg(4096)->UseManualTime()->Iterations(60)->Unit(benchmark::kMicrosecond);
BENCHMARK(fork_never_pinned)->UseManualTime()->Iterations(200)->Unit(benchmark::kMicrosecond);
BENCHMARK(fast_pins)->UseManualTime()->Iterations(15)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace ramet::mm::bench
