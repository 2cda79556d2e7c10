// How long a start takes: VM created, static hello run to its end, VM destroyed; then with a warm shell;
// beside them KVM's own floor, by nothing but its ioctls, and the native program.
// bench_start [--machine=NAME] [Google Benchmark's options] [PROGRAM]
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <benchmark/benchmark.h>

#include <chrono>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>

#include "bench/vms.hpp"
#include "vmm/kvm/x86_64/ioctl.hpp"
#include "vmm/run.hpp"

namespace {

using namespace ramet;
using bench::give_up, bench::must;
using Clock = std::chrono::steady_clock;

std::string program;

double microseconds(std::chrono::nanoseconds t) { return double(t.count()) / 1e3; }

std::unique_ptr<vmm::Shell> new_shell() { return must(vmm::Shell::create(64 << 20, {}, bench::machine_choice)); }

// Sums of what the runs report; shown as averages of a run, in microseconds and counts.
struct Totals {
  vmm::Machine::Totals exits{};
  std::chrono::nanoseconds setup{}, run{}, teardown{}, create{}, destroy{};

  void add(const vmm::Report& r) {
    exits += r.exits;
    setup += r.setup, run += r.run, teardown += r.teardown;
  }
  void report(benchmark::State& state) const {
    auto average = [&](const char* name, double sum) {
      state.counters[name] = {sum, benchmark::Counter::kAvgIterations};
    };
    average("syscalls", double(exits.syscalls));
    average("faults", double(exits.page_faults));
    average("other_exits", double(exits.exceptions + exits.kicks + exits.flush_exits));
    average("create_us", microseconds(create));
    average("setup_us", microseconds(setup));
    average("run_us", microseconds(run));
    average("teardown_us", microseconds(teardown));
    average("destroy_us", microseconds(destroy));
  }
};

vmm::Report run_hello(vmm::Shell& shell) {
  vmm::RunOptions options;
  options.program = program;
  options.memory_bytes = 64 << 20;
  auto report = must(vmm::run(shell, options));
  if (report.ending.status() != 0) give_up(program + " failed: " + report.ending.message);
  return report;
}

void cold(benchmark::State& state) {
  Totals totals;
  for (auto _ : state) {
    auto begin = Clock::now();
    auto shell = new_shell();
    auto created = Clock::now();
    auto report = run_hello(*shell);
    auto ran = Clock::now();
    shell.reset();
    auto end = Clock::now();
    state.SetIterationTime(std::chrono::duration<double>(end - begin).count());
    totals.create += created - begin, totals.destroy += end - ran;
    totals.add(report);
  }
  totals.report(state);
}

void warm(benchmark::State& state) {
  Totals totals;
  for (auto _ : state) {
    auto shell = new_shell();
    auto begin = Clock::now();
    auto report = run_hello(*shell);
    state.SetIterationTime(std::chrono::duration<double>(Clock::now() - begin).count());
    totals.add(report);
  }
  totals.report(state);
}

// What KVM alone takes: to make a VM and a vCPU with its CPUID, and to destroy them.
void kvm_floor(benchmark::State& state) {
  namespace kvm = vmm::kvm;
  constexpr unsigned kLeaves = 512;
  struct {
    kvm::ListHeader header;
    kvm_cpuid_entry2 leaves[kLeaves];
  } static cpuid;
  cpuid.header.count = kLeaves;
  vmm::HostFd device(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
  if (!device || kvm::call(device, kvm::kGetSupportedCpuid, &cpuid) < 0) give_up("/dev/kvm does not answer");
  for (auto _ : state) {
    auto begin = Clock::now();
    {
      vmm::HostFd vm(kvm::call(device, KVM_CREATE_VM, 0));
      vmm::HostFd vcpu(kvm::call(vm, KVM_CREATE_VCPU, 0));
      if (!vm || !vcpu || kvm::call(vcpu, kvm::kSetCpuid2, &cpuid) < 0) give_up("KVM refuses a vCPU");
    }
    state.SetIterationTime(std::chrono::duration<double>(Clock::now() - begin).count());
  }
}

void native(benchmark::State& state) {
  char* arguments[] = {program.data(), nullptr};
  char* environment[] = {nullptr};
  for (auto _ : state) {
    auto begin = Clock::now();
    pid_t pid;
    int status = 0;
    if (posix_spawn(&pid, program.c_str(), nullptr, nullptr, arguments, environment) != 0 ||
        waitpid(pid, &status, 0) != pid || status != 0)
      give_up(program + " does not run");
    state.SetIterationTime(std::chrono::duration<double>(Clock::now() - begin).count());
  }
}

BENCHMARK(cold)->UseManualTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(warm)->UseManualTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(native)->UseManualTime()->Unit(benchmark::kMicrosecond);

}  // namespace

int main(int argc, char** argv) {
  program = std::filesystem::read_symlink("/proc/self/exe").parent_path() / "guests/hello";
  bench::take_machine(argc, argv);
  benchmark::Initialize(&argc, argv);
  if (argc > 1) program = argv[1];
  if (::access("/dev/kvm", R_OK | W_OK) == 0) BENCHMARK(kvm_floor)->UseManualTime()->Unit(benchmark::kMicrosecond);
  // The programs that are started say hello; results go to standard error instead, and to --benchmark_out.
  int null = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
  if (null < 0 || ::dup2(null, STDOUT_FILENO) < 0) give_up("no /dev/null");
  benchmark::ConsoleReporter reporter(benchmark::ConsoleReporter::OO_Tabular);
  reporter.SetOutputStream(&std::cerr);
  benchmark::RunSpecifiedBenchmarks(&reporter);
  benchmark::Shutdown();
  return 0;
}
