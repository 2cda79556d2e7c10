// The VMM's own cost of a system call that does nothing, from the exit to the guest's result, without guest or host;
// and of a descriptor's look-up. The number of instructions of a call, which does not jitter:
//   valgrind --tool=callgrind --toggle-collect='ramet::vmm::Thread::serve(*' bench_calls --benchmark_filter=null
// divided by the calls that the benchmark says it made.
#include <benchmark/benchmark.h>
#include <signal.h>
#include <sys/syscall.h>

#include "tests/vmm/fake_machine.hpp"
#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/thread.hpp"

namespace ramet::vmm {
namespace {

std::shared_ptr<Shell> make_shell() {
  auto machine = std::make_unique<FakeMachine>();
  auto memory = *mm::Memory::create({.data_bytes = 64 << 20, .table_bytes = 16 << 20, .space = {}});
  if (!memory->observe(*machine)) std::abort();
  auto space = *mm::AddressSpace::create({}, *memory, *machine);
  return std::make_shared<Shell>(std::move(memory), std::move(machine), std::move(space));
}

void null_call(benchmark::State& state) {
  const auto shell = make_shell();
  Family family(*shell);
  auto process = std::make_shared<Process>(family, family.first_id(), std::make_shared<Image>(shell),
                                           *Files::create({}));
  if (!family.add(process, 0, SIGCHLD, 1)) std::abort();
  Thread thread(*process, process->image(), static_cast<FakeMachine&>(shell->machine()).vcpu, process->pid);
  const arch::GuestAbi& abi = thread.abi();
  const Exit exit{.kind = Exit::Kind::Syscall, .detail = {}};
  for (auto _ : state) {
    thread.regs()[abi.reg.number] = SYS_getpid;
    thread.serve(exit);
  }
  if (thread.regs()[abi.reg.result] != static_cast<std::uint64_t>(process->pid)) std::abort();
  state.counters["calls"] = static_cast<double>(state.iterations());
}
BENCHMARK(null_call)->Iterations(100'000);

// What each call with a descriptor begins with; threads of one process, each with a file of its own.
void look_up(benchmark::State& state) {
  static Files* files;
  if (state.thread_index() == 0) {
    files = new Files(*Files::create({}));
    files->attach_stdio(0, 1, 2);
  }
  for (auto _ : state) benchmark::DoNotOptimize(files->get(state.thread_index()));
  if (state.thread_index() == 0) delete files;
}
BENCHMARK(look_up)->ThreadRange(1, 2)->UseRealTime();

}  // namespace
}  // namespace ramet::vmm

BENCHMARK_MAIN();
