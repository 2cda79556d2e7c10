// What the memory-management engine costs by itself: AddressSpace from a plain thread, without a vCPU and
// so without exits, beside the same work done by Linux. A fault of Linux includes entering its kernel.
// Both sides give out memory that was used before, so that both clear it: what the host needs to provide
// memory in the first place is in neither.
#include <benchmark/benchmark.h>

#include "bench/engine.hpp"

namespace {

using namespace ramet::mm;
using bench::check, bench::kAt, bench::native_map;

constexpr std::uint64_t kWindow = 16 * kBlockSize;  // less than the frame pool keeps backed when it is freed

struct Engine : bench::Engine {
  explicit Engine(AddressSpace::Config config = {}) : bench::Engine(config) {
    map(kWindow);  // the memory comes from the host here
    touch(kAt, kWindow);
    unmap(kWindow);
  }
  void map(std::uint64_t length) { bench::Engine::map(kAt, length); }
  void unmap(std::uint64_t length) { bench::Engine::unmap(kAt, length); }
  void protect(std::uint64_t length, Prot prot) { bench::Engine::protect(kAt, length, prot); }
  // What a guest that writes all of it costs: a fault wherever the entry is not there yet.
  std::uint64_t fault_all(std::uint64_t length, std::uint64_t step) {
    std::uint64_t faults = 0;
    for (Gva va = kAt; va < kAt + length; va += step, ++faults) fault(va);
    return faults;
  }
};

std::uint64_t native_touch(std::uint64_t length, std::uint64_t step) {
  std::uint64_t faults = 0;
  for (Gva va = kAt; va < kAt + length; va += step, ++faults) bench::native_touch(va);
  return faults;
}

// Time per 4 KiB of memory, whatever a fault maps.
void per_page(benchmark::State& state, std::uint64_t pages, std::uint64_t faults) {
  state.SetItemsProcessed(std::int64_t(pages));
  state.counters["per_page"] = benchmark::Counter(double(pages),
                                                  benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
  state.counters["per_fault"] = benchmark::Counter(double(faults),
                                                   benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

void engine_faults(benchmark::State& state, AddressSpace::Config config, std::uint64_t step) {
  Engine e(config);
  std::uint64_t faults = 0, pages = 0;
  for (auto _ : state) {
    state.PauseTiming();
    e.map(kWindow);
    state.ResumeTiming();
    faults += e.fault_all(kWindow, step);
    pages += kWindow / kPageSize;
    state.PauseTiming();
    e.unmap(kWindow);
    state.ResumeTiming();
  }
  per_page(state, pages, faults);
}

void native_faults(benchmark::State& state, int advice, std::uint64_t step) {
  std::uint64_t faults = 0, pages = 0;
  for (auto _ : state) {
    state.PauseTiming();
    char* p = native_map(kAt, kWindow, advice);
    state.ResumeTiming();
    faults += native_touch(kWindow, step);
    pages += kWindow / kPageSize;
    state.PauseTiming();
    munmap(p, kWindow);
    state.ResumeTiming();
  }
  per_page(state, pages, faults);
}

// The guest faults once a window of 16 pages: so do we. The engine's window grows, and then a fault finds
// its entry there: spurious ones are counted as faults here although a guest would not take them.
BENCHMARK_CAPTURE(engine_faults, zero_4K, {.blocks = false, .around_pages = 1}, kPageSize);
BENCHMARK_CAPTURE(native_faults, zero_4K, MADV_NOHUGEPAGE, kPageSize);
BENCHMARK_CAPTURE(engine_faults, zero_4K_around, {.blocks = false}, 16 * kPageSize);
BENCHMARK_CAPTURE(engine_faults, zero_2M, {}, kBlockSize);
BENCHMARK_CAPTURE(native_faults, zero_2M, MADV_HUGEPAGE, kBlockSize);

void engine_spurious(benchmark::State& state) {
  Engine e;
  e.map(kWindow);
  e.fault_all(kWindow, kBlockSize);
  Gva va = kAt;
  for (auto _ : state) {
    e.fault(va);
    va = kAt + (va - kAt + kPageSize) % kWindow;
  }
}
BENCHMARK(engine_spurious);

// map and unmap of `range` bytes that nobody touched, and that were touched on every page
void engine_map_unmap(benchmark::State& state) {
  Engine e;
  const auto length = std::uint64_t(state.range(0));
  for (auto _ : state) e.map(length), e.unmap(length);
}
void native_map_unmap(benchmark::State& state) {
  const auto length = std::uint64_t(state.range(0));
  for (auto _ : state) munmap(native_map(kAt, length, MADV_NORMAL), length);
}
void engine_map_touch_unmap(benchmark::State& state) {
  Engine e;
  const auto length = std::uint64_t(state.range(0));
  for (auto _ : state) e.map(length), e.fault_all(length, 16 * kPageSize), e.unmap(length);
}
void native_map_touch_unmap(benchmark::State& state) {
  const auto length = std::uint64_t(state.range(0));
  for (auto _ : state) {
    char* p = native_map(kAt, length, MADV_NORMAL);
    native_touch(length, kPageSize);
    munmap(p, length);
  }
}
BENCHMARK(engine_map_unmap)->Arg(64 << 10)->Arg(16 << 20);
BENCHMARK(native_map_unmap)->Arg(64 << 10)->Arg(16 << 20);
BENCHMARK(engine_map_touch_unmap)->Arg(64 << 10)->Arg(1 << 20);
BENCHMARK(native_map_touch_unmap)->Arg(64 << 10)->Arg(1 << 20);

// protect to read-only and back, of 1 and of 256 touched pages
void engine_protect(benchmark::State& state) {
  Engine e({.blocks = false});
  const auto length = std::uint64_t(state.range(0)) * kPageSize;
  e.map(kWindow);
  e.fault_all(length, kPageSize);
  for (auto _ : state) {
    e.protect(length, Prot::Read);
    e.protect(length, Prot::Read | Prot::Write);
  }
}
void native_protect(benchmark::State& state) {
  char* p = native_map(kAt, kWindow, MADV_NOHUGEPAGE);
  const auto length = std::uint64_t(state.range(0)) * kPageSize;
  native_touch(length, kPageSize);
  for (auto _ : state) check(mprotect(p, length, PROT_READ) == 0 && mprotect(p, length, PROT_READ | PROT_WRITE) == 0);
  munmap(p, kWindow);
}
BENCHMARK(engine_protect)->Arg(1)->Arg(256);
BENCHMARK(native_protect)->Arg(1)->Arg(256);

}  // namespace
