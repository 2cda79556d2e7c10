// The table of system calls, and how one is served.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>

#include "vmm/linux/process.hpp"
#include "vmm/linux/signal_state.hpp"
#include "vmm/linux/syscall.hpp"
#include "vmm/linux/thread.hpp"

namespace ramet::vmm {
namespace {

using Table = std::array<Handler, Process::kMaxCall>;

const Table& table() {
  static const Table joined = [] {
    Table t{};
    for (auto calls : {memory_calls(), sysv_memory_calls(), thread_calls(), clone_calls(), exec_calls(),
                       relation_calls(), futex_calls(), signal_calls(), signalfd_calls(), time_calls(), system_calls(),
                       file_calls(), path_calls(), event_calls(), socket_calls(), uring_calls(), snapshot_calls()})
      for (const Definition& d : calls)
        if (d.number < t.size()) t[d.number] = d.handler;
    return t;
  }();
  return joined;
}

}  // namespace

void dispatch(Thread& thread) {
  const UserRegs& regs = thread.regs();
  const auto number = static_cast<std::uint32_t>(regs[thread.abi().reg.number]);  // as Linux, which looks at no more of it
  Handler handler = number < Process::kMaxCall ? table()[number] : nullptr;
  unsigned counted = std::min(number, Process::kMaxCall - 1);
  thread.process.count_call(counted, handler != nullptr);
  std::int64_t result = handler ? handler(thread, Args{thread.abi().arguments(regs)}) : -ENOSYS;
  if (thread.exited) return;
  deliver_signals(thread, result);
}

const char* syscall_name(unsigned number) {
  static const auto names = [] {
    static std::array<std::array<char, 16>, Process::kMaxCall> numbered;
    std::array<const char*, Process::kMaxCall> n{};
    for (unsigned i = 0; i < n.size(); ++i) {
      std::snprintf(numbered[i].data(), numbered[i].size(), "syscall_%u", i);
      n[i] = numbered[i].data();
    }
#define X(number, name) n[number] = #name;
#include "vmm/linux/syscall_names.inc"
#undef X
    n.back() = "out_of_range";  // where numbers that no Linux has are counted
    return n;
  }();
  return names[number < names.size() ? number : names.size() - 1];
}

}  // namespace ramet::vmm
