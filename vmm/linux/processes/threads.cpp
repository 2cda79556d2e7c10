// System calls about threads: ending them, their ids, names and thread-local storage.
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/user_memory.hpp"

namespace ramet::vmm {
namespace {

// --- ending ---

std::int64_t sys_exit(Thread& thread, const Args& a) {
  thread.exit_status = a.i32(0) & 0xff;
  thread.exited = true;
  return 0;
}

std::int64_t sys_exit_group(Thread& thread, const Args& a) {
  thread.process.end({Ending::Kind::Exited, a.i32(0) & 0xff, {}});
  thread.exited = true;
  return 0;
}

// --- ids and names ---

std::int64_t sys_gettid(Thread& thread, const Args&) { return thread.tid; }
std::int64_t sys_getpid(Thread& thread, const Args&) { return thread.process.pid; }
std::int64_t sys_set_tid_address(Thread& thread, const Args& a) {
  thread.clear_child_tid = a[0];
  return thread.tid;
}

std::int64_t sys_prctl(Thread& thread, const Args& a) {
  switch (a.i32(0)) {
    case PR_SET_NAME: {
      std::string name;  // read byte by byte: the name may end just before an unmapped page
      for (mm::Gva at = a[1]; name.size() < 15; ++at) {
        auto c = read_user<char>(thread.memory(), at);
        if (!c) return -EFAULT;
        if (!*c) break;
        name += *c;
      }
      thread.set_name(std::move(name));
      return 0;
    }
    case PR_GET_NAME: {
      const std::string name = thread.name();
      std::array<char, 16> bytes{};
      std::copy_n(name.data(), std::min<std::size_t>(name.size(), 15), bytes.data());
      return put_user(thread.memory(), a[1], bytes);
    }
    case PR_SET_PDEATHSIG:
      if (a[1] > kSignals) return -EINVAL;
      thread.process.family.set_death_signal(thread.process.pid, static_cast<int>(a[1]));
      return 0;
    case PR_GET_PDEATHSIG:
      return put_user(thread.memory(), a[1], thread.process.family.death_signal(thread.process.pid));
    case PR_SET_CHILD_SUBREAPER: thread.process.family.set_subreaper(thread.process.pid, a[1] != 0); return 0;
    case PR_GET_CHILD_SUBREAPER:
      return put_user(thread.memory(), a[1], thread.process.family.subreaper(thread.process.pid) ? 1 : 0);
    case PR_GET_DUMPABLE: return 1;
    case PR_SET_DUMPABLE: return a[1] > 1 ? -EINVAL : 0;
    case PR_SET_NO_NEW_PRIVS: return a[1] != 1 || a[2] || a[3] || a[4] ? -EINVAL : 0;
    case PR_GET_NO_NEW_PRIVS: return 1;  // no call gives new privileges
    case PR_GET_SECCOMP: return 0;
    case PR_SET_TIMERSLACK: return 0;
    case PR_GET_TIMERSLACK: return 50000;
    case PR_SET_THP_DISABLE: return 0;
    case PR_GET_THP_DISABLE: return 0;
    // Tags in pointers are always ignored where the processor ignores them, so there is nothing to switch on.
    case PR_SET_TAGGED_ADDR_CTRL:
      return thread.abi().tag_bits == 0 || a[1] > PR_TAGGED_ADDR_ENABLE || a[2] || a[3] || a[4] ? -EINVAL : 0;
    case PR_GET_TAGGED_ADDR_CTRL:
      return thread.abi().tag_bits == 0 || a[1] || a[2] || a[3] || a[4]
                 ? -EINVAL
                 : static_cast<std::int64_t>(PR_TAGGED_ADDR_ENABLE);
    case PR_SET_VMA: return -EINVAL;  // as kernels without CONFIG_ANON_VMA_NAME
    default: return identity_prctl(thread, a);
  }
}

std::int64_t sys_arch_prctl(Thread& thread, const Args& a) {
  const auto access = thread.abi().arch_prctl(a.i32(0));
  if (!access) return -EINVAL;
  if (!access->set) return put_user(thread.memory(), a[1], thread.vcpu().base(access->base));
  if (a[1] >= thread.abi().base_end) return -EPERM;
  thread.vcpu().set_base(access->base, a[1]);
  return 0;
}

}  // namespace

std::span<const Definition> thread_calls() {
  static constexpr Definition kCalls[] = {
      {Call::exit, sys_exit},
      {Call::exit_group, sys_exit_group},
      {Call::gettid, sys_gettid},
      {Call::getpid, sys_getpid},
      {Call::set_tid_address, sys_set_tid_address},
      {Call::prctl, sys_prctl},
      {Call::arch_prctl, sys_arch_prctl},
  };
  return kCalls;
}

}  // namespace ramet::vmm
