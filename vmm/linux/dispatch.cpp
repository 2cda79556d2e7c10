// The table of system calls, and how one is served.
#include <array>
#include <cerrno>
#include <cstdio>

#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/signals/state.hpp"
#include "vmm/linux/syscall.hpp"

namespace ramet::vmm {
namespace {

// Calls whose first argument is the start of a range of memory, from which a tag is removed. Others reach memory
// through the address space, which ignores tags.
constexpr bool begins_with_range(Call call) {
  switch (call) {
    case Call::madvise:
    case Call::mincore:
    case Call::mlock:
    case Call::mlock2:
    case Call::mprotect:
    case Call::mremap:
    case Call::msync:
    case Call::munlock:
    case Call::munmap: return true;
    default: return false;
  }
}

std::int64_t not_served(Thread&, const Args&) { return -ENOSYS; }

struct Entry {
  Handler handler = not_served;
  bool begins_with_range = false;
};
using Table = std::array<Entry, arch::kMostCalls>;

// The lists come from functions: the order of static initialization does not matter.
const Table table = [] {
  Table t{};
  for (auto calls :
       {memory_calls(), placement_calls(), memory_lock_calls(), sysv_memory_calls(), thread_calls(), scheduling_calls(),
        clone_calls(),  exec_calls(),      relation_calls(),    futex_calls(),       signal_calls(), signalfd_calls(),
        time_calls(),   system_calls(),    identity_calls(),    file_calls(),        path_calls(),   event_calls(),
        socket_calls(), uring_calls(),     save_point_calls(),  generation_calls()})
    for (const Definition& d : calls) t[static_cast<std::size_t>(d.call)] = {d.handler, begins_with_range(d.call)};
  return t;
}();

}  // namespace

void dispatch(Thread& thread) {
  UserRegs& regs = thread.regs();
  const arch::GuestAbi& abi = thread.abi();
  const auto number = static_cast<std::uint32_t>(regs[abi.reg.number]);  // as Linux, which ignores the upper half
  const Call call = abi.call_of(number);
  const Entry& entry = table[static_cast<std::size_t>(call)];
  Args arguments{abi.arguments(regs)};
  if (entry.begins_with_range) arguments.v[0] &= ~abi.tag_bits;
  if (entry.handler != not_served) thread.count_call(call);
  else thread.process.family.count_unknown(call);
  const std::int64_t result = entry.handler(thread, arguments);
  if (thread.exited) return;
  if (thread.undisturbed() && result > kRestartSys && result != -EINTR)
    thread.set_result(static_cast<std::uint64_t>(result));
  else deliver_signals(thread, result);
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
