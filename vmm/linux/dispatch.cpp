// The table of system calls, and how one is served.
#include <array>
#include <cerrno>
#include <cstdio>

#include "vmm/linux/processes/process.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/signals/state.hpp"
#include "vmm/linux/syscall.hpp"

namespace ramet::vmm {
namespace {

using Table = std::array<Handler, arch::kMostCalls>;

const Table& table() {
  static const Table joined = [] {
    Table t{};
    for (auto calls : {memory_calls(), placement_calls(), memory_lock_calls(), sysv_memory_calls(), thread_calls(), scheduling_calls(), clone_calls(), exec_calls(),
                       relation_calls(), futex_calls(), signal_calls(), signalfd_calls(), time_calls(), system_calls(), identity_calls(),
                       file_calls(), path_calls(), event_calls(), socket_calls(), uring_calls(), snapshot_calls(), generation_calls()})
      for (const Definition& d : calls)
        t[static_cast<std::size_t>(d.call)] = d.handler;
    return t;
  }();
  return joined;
}

// Calls about memory from their first argument on. Other calls reach memory through the address space, which takes no notice
// of tags.
bool begins_with_range(Call call) {
  switch (call) {
    case Call::madvise: case Call::mincore: case Call::mlock: case Call::mlock2: case Call::mprotect: case Call::mremap:
    case Call::msync: case Call::munlock: case Call::munmap: return true;
    default: return false;
  }
}

}  // namespace

void dispatch(Thread& thread) {
  const UserRegs& regs = thread.regs();
  const auto number = static_cast<std::uint32_t>(regs[thread.abi().reg.number]);  // as Linux, which looks at no more of it
  const Call call = thread.abi().call_of(number);
  const Handler handler = table()[static_cast<std::size_t>(call)];
  thread.process.count_call(call, handler != nullptr);
  auto arguments = thread.abi().arguments(regs);
  if (begins_with_range(call)) arguments[0] &= ~thread.abi().tag_bits;
  std::int64_t result = handler ? handler(thread, Args{arguments}) : -ENOSYS;
  if (thread.exited) return;
  deliver_signals(thread, result);
}

const char* syscall_name(Call call) {
  static const auto names = [] {
    static std::array<std::array<char, 16>, arch::kMostCalls> numbered;
    std::array<const char*, arch::kMostCalls> n{};
    for (unsigned i = 0; i < n.size(); ++i) {
      std::snprintf(numbered[i].data(), numbered[i].size(), "syscall_%u", i);
      n[i] = numbered[i].data();
    }
#define X(value, name) n[value] = #name;
#include "arch/calls.inc"
#undef X
    n[static_cast<std::size_t>(arch::kNoCall)] = "out_of_range";
    return n;
  }();
  return names[static_cast<std::size_t>(call)];
}

}  // namespace ramet::vmm
