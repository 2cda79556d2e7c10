// What snapshots cost: spawning a VM from a warm snapshot up to its first instruction, resetting one, freezing and
// forking by size, and what a child costs the host. bench_layers [--machine=NAME]
// [Google Benchmark's options]
#include <benchmark/benchmark.h>

#include <chrono>
#include <fstream>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "arch/x86_64/user_state.hpp"
#include "bench/samples.hpp"
#include "bench/vms.hpp"
#include "vmm/frozen_vm.hpp"

namespace {

using namespace ramet;
using bench::give_up, bench::microseconds, bench::must, bench::nanoseconds, bench::Samples;

constexpr mm::Gva kProgram = 0x7000'0000'0000, kPlace = 0x7000'4000'0000;
constexpr std::uint64_t kMiB = 1ull << 20;

// rdi: where, rsi: how many pages, rdx: bytes from one to the next. r8: the time stamp at the first instruction.
constexpr std::uint8_t kCode[] = {0x49, 0x89, 0xd1,              // mov %rdx,%r9
                                  0x0f, 0x31,                    // rdtsc
                                  0x48, 0xc1, 0xe2, 0x20,        // shl $32,%rdx
                                  0x48, 0x09, 0xd0,              // or %rdx,%rax
                                  0x49, 0x89, 0xc0,              // mov %rax,%r8
                                  0x48, 0x85, 0xf6, 0x74, 0x0b,  // test %rsi,%rsi; jz 2f
                                  0x48, 0xff, 0x07,              // 1: incq (%rdi)
                                  0x4c, 0x01, 0xcf,              // add %r9,%rdi
                                  0x48, 0xff, 0xce,              // dec %rsi
                                  0x75, 0xf5,                    // jnz 1b
                                  0x0f, 0x05};                   // 2: syscall

// Runs kCode on a vCPU acquired for it. Returns the time stamp at the first instruction.
std::uint64_t run(vmm::Shell& vm, mm::Gva from, std::uint64_t pages, std::uint64_t step = mm::kPageSize) {
  auto& v = *must(vm.machine().acquire_vcpu());
  using enum arch::x86_64::Register;
  v.regs()[Rip] = kProgram, v.regs()[Rdi] = from, v.regs()[Rsi] = pages, v.regs()[Rdx] = step;
  for (vmm::Exit e = v.run(); e.kind != vmm::Exit::Kind::Syscall; e = v.run()) {
    if (e.kind == vmm::Exit::Kind::Kicked) continue;
    if (e.kind != vmm::Exit::Kind::PageFault || !vm.memory().fault(e.address, e.access))
      give_up("the guest failed: " + e.detail);
  }
  const std::uint64_t first = v.regs()[R8];
  vm.machine().release_vcpu(&v);
  return first;
}

std::unique_ptr<vmm::Shell> parent(std::uint64_t mib, bool blocks) {
  auto vm = must(vmm::Shell::create(2 * mib * kMiB + 64 * kMiB, {}, bench::machine_choice));
  mm::AddressSpace& m = vm->memory();
  const auto rw = mm::Prot::Read | mm::Prot::Write;
  if (!m.map({.address = kProgram, .length = mm::kPageSize, .prot = rw, .fixed = true}) ||
      !m.write(kProgram, std::as_bytes(std::span(kCode))) ||
      !m.protect(kProgram, mm::kPageSize, mm::Prot::Read | mm::Prot::Exec) ||
      !m.map({.address = kPlace, .length = mib * kMiB, .prot = rw, .fixed = true}))
    give_up("no memory");
  if (!blocks && !m.advise(kPlace, mib * kMiB, mm::Advice::NoHuge)) give_up("no advice");
  run(*vm, kPlace, mib * kMiB / mm::kPageSize);
  return vm;
}

// From spawn() to the first instruction of user code.
void spawn(benchmark::State& state, bool warm) {
  auto vm = parent(std::uint64_t(state.range(0)), true);
  auto snapshot = must(vm->freeze());
  Samples times, calls;
  for (auto _ : state) {
    if (!warm) {
      snapshot = must(vm->freeze());  // of which nobody has made a VM yet
    } else {
      snapshot->keep_warm();
      while (snapshot->warm() < vmm::FrozenVm::kWarm) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    const std::uint64_t begin = ramet_ticks();
    auto child = must(snapshot->spawn());
    const std::uint64_t spawned = ramet_ticks();
    const std::uint64_t first = run(*child, kPlace, 0);
    times.add(microseconds(begin, first)), calls.add(microseconds(begin, spawned));
    state.SetIterationTime(times.values.back() / 1e6);
  }
  state.counters["median_us"] = times.median();
  state.counters["call_us"] = calls.median();
}

// A VM that is used again and again: its pages written, then reset, then its first instruction.
void reset(benchmark::State& state, std::uint64_t step) {
  const auto pages = std::uint64_t(state.range(0));
  auto vm = parent(64, false);
  auto snapshot = must(vm->freeze());
  auto child = must(snapshot->spawn());
  Samples times, next;
  for (auto _ : state) {
    run(*child, kPlace, pages, step);
    times.add(nanoseconds([&] { must(child->reset()); }) / 1e3);
    const std::uint64_t enter = ramet_ticks();
    next.add(microseconds(enter, run(*child, kPlace, 0)));
    state.SetIterationTime(times.values.back() / 1e6);
  }
  state.counters["median_us"] = times.median();
  state.counters["entry_us"] = next.median();
}

// The parent's side alone: what a guest's fork(2) waits for, besides its own exit.
void freeze(benchmark::State& state) {
  auto vm = parent(std::uint64_t(state.range(0)), true);
  Samples times;
  for (auto _ : state) {
    run(*vm, kPlace, 1);
    std::shared_ptr<vmm::FrozenVm> snapshot;
    times.add(nanoseconds([&] { snapshot = must(vm->freeze()); }) / 1e3);
    state.SetIterationTime(times.values.back() / 1e6);
  }
  state.counters["median_us"] = times.median();
}

// A write to a page of the parent's, by a child that has written others before.
void copy_on_write(benchmark::State& state, std::uint64_t step) {
  auto vm = parent(64, false);
  auto snapshot = must(vm->freeze());
  const std::uint64_t pages = 64 * kMiB / step;
  Samples times;
  for (auto _ : state) {
    auto child = must(snapshot->spawn());
    run(*child, kPlace, 0);
    times.add(nanoseconds([&] { run(*child, kPlace, pages, step); }) / 1e3 / double(pages));
    state.SetIterationTime(times.values.back() / 1e6);
  }
  state.counters["median_us"] = times.median();
}

// KiB: this process's Pss; `kernel`: the host's available memory, which also shrinks by what the kernel keeps for VMs.
double host_kib(bool kernel) {
  std::ifstream in(kernel ? "/proc/meminfo" : "/proc/self/smaps_rollup");
  std::string name;
  for (double value; in >> name;) {
    if (name == (kernel ? "MemAvailable:" : "Pss:") && in >> value) return value;
  }
  give_up("/proc has no such figure");
}

void child_memory(benchmark::State& state) {
  constexpr unsigned kChildren = 64;
  auto vm = parent(64, false);
  auto snapshot = must(vm->freeze());
  for (auto _ : state) {
    const double before = host_kib(false), available = host_kib(true);
    std::vector<std::unique_ptr<vmm::Shell>> children;
    for (unsigned i = 0; i < kChildren; ++i) {
      children.push_back(must(snapshot->spawn()));
      run(*children.back(), kPlace + 9 * kMiB, 1);
    }
    state.counters["own_KiB"] = (host_kib(false) - before) / kChildren;
    state.counters["with_kernel_KiB"] = (available - host_kib(true)) / kChildren;
  }
}

BENCHMARK_CAPTURE(spawn, warm, true)
    ->Arg(64)
    ->Arg(1024)
    ->UseManualTime()
    ->Iterations(40)
    ->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(spawn, cold, false)->Arg(64)->UseManualTime()->Iterations(40)->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(reset, in_sequence, mm::kPageSize)
    ->Arg(1)
    ->Arg(256)
    ->Arg(2048)
    ->UseManualTime()
    ->Iterations(100)
    ->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(reset, scattered, 7 * mm::kPageSize)
    ->Arg(256)
    ->Arg(2048)
    ->UseManualTime()
    ->Iterations(100)
    ->Unit(benchmark::kMicrosecond);
BENCHMARK(freeze)->Arg(16)->Arg(256)->Arg(1024)->Arg(4096)->UseManualTime()->Iterations(60)->Unit(
    benchmark::kMicrosecond);
BENCHMARK_CAPTURE(copy_on_write, in_sequence, mm::kPageSize)
    ->UseManualTime()
    ->Iterations(10)
    ->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(copy_on_write, scattered, 17 * mm::kPageSize)
    ->UseManualTime()
    ->Iterations(10)
    ->Unit(benchmark::kMicrosecond);
BENCHMARK(child_memory)->Iterations(3);

}  // namespace

int main(int argc, char** argv) { return bench::run_benchmarks(argc, argv); }
