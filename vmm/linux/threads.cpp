// System calls about threads: ending them, their ids, names, scheduling and thread-local storage.
#include <sched.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "vmm/linux/family.hpp"
#include "vmm/linux/thread.hpp"
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
      std::lock_guard guard(thread.process.threads_lock);  // /proc reads the names of all threads
      thread.name = std::move(name);
      return 0;
    }
    case PR_GET_NAME: {
      std::array<char, 16> name{};
      std::copy_n(thread.name.data(), std::min<std::size_t>(thread.name.size(), 15), name.data());
      return put_user(thread.memory(), a[1], name);
    }
    case PR_SET_PDEATHSIG:
      if (a[1] > kSignals) return -EINVAL;
      thread.process.family.set_death_signal(thread.process.pid, static_cast<int>(a[1]));
      return 0;
    case PR_GET_PDEATHSIG: return put_user(thread.memory(), a[1], thread.process.family.death_signal(thread.process.pid));
    case PR_SET_CHILD_SUBREAPER:
      thread.process.family.set_subreaper(thread.process.pid, a[1] != 0);
      return 0;
    case PR_GET_CHILD_SUBREAPER: return put_user(thread.memory(), a[1], thread.process.family.subreaper(thread.process.pid) ? 1 : 0);
    case PR_GET_DUMPABLE: return 1;
    case PR_SET_DUMPABLE: return a[1] > 1 ? -EINVAL : 0;
    case PR_SET_NO_NEW_PRIVS: return a[1] != 1 || a[2] || a[3] || a[4] ? -EINVAL : 0;
    case PR_GET_NO_NEW_PRIVS: return 1;  // nothing a guest does can gain any
    case PR_GET_SECCOMP: return 0;
    case PR_SET_TIMERSLACK: return 0;
    case PR_GET_TIMERSLACK: return 50000;
    case PR_SET_THP_DISABLE: return 0;
    case PR_GET_THP_DISABLE: return 0;
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

// --- scheduling: the host's, which guest threads are subject to as any host thread ---

bool known_thread(Thread& thread, int tid) {
  return tid == 0 || thread.goes_by(tid) || thread.process.family.find_by_thread(tid) != nullptr;
}

std::int64_t sys_sched_yield(Thread&, const Args&) {
  sched_yield();
  return 0;
}

// That thread, while its process's threads_lock is held. Errors: ESRCH.
template <class F>
std::int64_t with_thread(Thread& thread, int tid, F f) {
  if (tid < 0) return -ESRCH;
  if (tid == 0) tid = thread.tid;
  auto process = thread.process.family.find_by_thread(tid);
  if (!process) return -ESRCH;
  std::lock_guard guard(process->threads_lock);
  Thread* const found = process->find_thread(tid);
  return found ? f(*found) : -ESRCH;
}

std::int64_t sys_sched_getaffinity(Thread& thread, const Args& a) {
  const unsigned size = a.u32(1);
  std::vector<std::byte> set = thread.process.family.processors;
  if (size % sizeof(std::uint64_t) || size < set.size()) return -EINVAL;
  const std::int64_t found = with_thread(thread, a.i32(0), [&](const Thread& t) {
    if (!t.affinity().empty()) set.assign(t.affinity().begin(), t.affinity().end());
    return 0;
  });
  if (found < 0) return found;
  return thread.memory().write(a[2], set) ? static_cast<std::int64_t>(set.size()) : -EFAULT;
}

std::int64_t sys_sched_setaffinity(Thread& thread, const Args& a) {
  std::vector<std::byte> set = thread.process.family.processors;  // nobody is let out of there
  std::vector<std::byte> wanted(std::min<std::size_t>(a.u32(1), set.size()));
  if (!thread.memory().read(a[2], wanted)) return -EFAULT;
  wanted.resize(set.size());
  for (std::size_t i = 0; i < set.size(); ++i) set[i] &= wanted[i];
  const bool any = std::ranges::any_of(set, [](std::byte b) { return b != std::byte{0}; });
  return with_thread(thread, a.i32(0), [&](Thread& t) -> std::int64_t { return any ? -t.set_affinity(std::move(set)) : -EINVAL; });
}

std::int64_t sys_sched_getscheduler(Thread& thread, const Args& a) {
  if (a.i32(0) < 0) return -EINVAL;
  return known_thread(thread, a.i32(0)) ? SCHED_OTHER : -ESRCH;
}
std::int64_t sys_sched_getparam(Thread& thread, const Args& a) {
  if (a.i32(0) < 0 || !a[1]) return -EINVAL;
  return known_thread(thread, a.i32(0)) ? put_user(thread.memory(), a[1], sched_param{}) : -ESRCH;
}
std::int64_t set_parameters(Thread& thread, int tid, mm::Gva at) {
  if (tid < 0 || !at) return -EINVAL;
  auto param = read_user<sched_param>(thread.memory(), at);
  if (!param) return -EFAULT;
  if (!known_thread(thread, tid)) return -ESRCH;
  return param->sched_priority == 0 ? 0 : -EINVAL;  // what the policies below allow
}
std::int64_t sys_sched_setparam(Thread& thread, const Args& a) { return set_parameters(thread, a.i32(0), a[1]); }
std::int64_t sys_sched_setscheduler(Thread& thread, const Args& a) {
  switch (a.i32(1) & ~SCHED_RESET_ON_FORK) {
    case SCHED_OTHER:
    case SCHED_BATCH:
    case SCHED_IDLE: return set_parameters(thread, a.i32(0), a[2]);
    case SCHED_FIFO:
    case SCHED_RR:
    case SCHED_DEADLINE: return -EPERM;
    default: return -EINVAL;
  }
}
std::int64_t priority_bound(int policy, bool upper) {
  switch (policy) {
    case SCHED_FIFO:
    case SCHED_RR: return upper ? 99 : 1;
    case SCHED_OTHER:
    case SCHED_BATCH:
    case SCHED_IDLE:
    case SCHED_DEADLINE: return 0;
    default: return -EINVAL;
  }
}
std::int64_t sys_sched_get_priority_max(Thread&, const Args& a) { return priority_bound(a.i32(0), true); }
std::int64_t sys_sched_get_priority_min(Thread&, const Args& a) { return priority_bound(a.i32(0), false); }
std::int64_t sys_sched_rr_get_interval(Thread& thread, const Args& a) {
  if (a.i32(0) < 0) return -EINVAL;
  if (!known_thread(thread, a.i32(0))) return -ESRCH;
  return put_user(thread.memory(), a[1], timespec{0, 4'000'000});
}

std::int64_t sys_getcpu(Thread& thread, const Args& a) {
  unsigned cpu = 0, node = 0;
  if (getcpu(&cpu, &node) != 0) return -errno;
  if (a[0] && put_user(thread.memory(), a[0], cpu)) return -EFAULT;
  return a[1] ? put_user(thread.memory(), a[1], node) : 0;
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
      {Call::sched_yield, sys_sched_yield},
      {Call::sched_getaffinity, sys_sched_getaffinity},
      {Call::sched_setaffinity, sys_sched_setaffinity},
      {Call::sched_getscheduler, sys_sched_getscheduler},
      {Call::sched_setscheduler, sys_sched_setscheduler},
      {Call::sched_getparam, sys_sched_getparam},
      {Call::sched_setparam, sys_sched_setparam},
      {Call::sched_get_priority_max, sys_sched_get_priority_max},
      {Call::sched_get_priority_min, sys_sched_get_priority_min},
      {Call::sched_rr_get_interval, sys_sched_rr_get_interval},
      {Call::getcpu, sys_getcpu},
  };
  return kCalls;
}

}  // namespace ramet::vmm
