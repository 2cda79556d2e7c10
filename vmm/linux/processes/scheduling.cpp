// System calls about scheduling.
#include "vmm/linux/processes/scheduling.hpp"

#include <linux/capability.h>
#include <linux/ioprio.h>
#include <linux/sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/user_memory.hpp"

namespace ramet::vmm {
namespace {

constexpr bool fair(int policy) { return policy == SCHED_OTHER || policy == SCHED_BATCH; }

std::int64_t sys_sched_yield(Thread&, const Args&) {
  sched_yield();
  return 0;
}

std::int64_t sys_getcpu(Thread& thread, const Args& a) {
  unsigned cpu = 0, node = 0;
  if (getcpu(&cpu, &node) != 0) return -errno;
  if (a[0] && put_user(thread.memory(), a[0], cpu)) return -EFAULT;
  return a[1] ? put_user(thread.memory(), a[1], node) : 0;
}

// --- processors ---

std::int64_t sys_sched_getaffinity(Thread& thread, const Args& a) {
  Family& family = thread.process.family;
  const unsigned size = a.u32(1);
  std::vector<std::byte> set = family.processors;
  if (size % sizeof(std::uint64_t) || size < set.size()) return -EINVAL;
  const std::int64_t found = family.with_thread(thread, a.i32(0), [&](const Thread& t) {
    if (!t.affinity().empty()) set.assign(t.affinity().begin(), t.affinity().end());
    return 0;
  });
  if (found < 0) return found;
  return thread.memory().write(a[2], set) ? static_cast<std::int64_t>(set.size()) : -EFAULT;
}

std::int64_t sys_sched_setaffinity(Thread& thread, const Args& a) {
  Family& family = thread.process.family;
  std::vector<std::byte> set = family.processors;  // no guest leaves the VMM's set
  std::vector<std::byte> wanted(std::min<std::size_t>(a.u32(1), set.size()));
  if (!thread.memory().read(a[2], wanted)) return -EFAULT;
  wanted.resize(set.size());
  for (std::size_t i = 0; i < set.size(); ++i) set[i] &= wanted[i];
  const bool any = std::ranges::any_of(set, [](std::byte b) { return b != std::byte{0}; });
  return family.with_thread(thread, a.i32(0), [&](Thread& t) -> std::int64_t {
    if (!may_schedule(*thread.credentials(), *t.credentials())) return -EPERM;
    return any ? -t.set_affinity(set) : -EINVAL;
  });
}

// --- nice values ---

// Calls of_each(thread) for each thread that getpriority(2), ioprio_get(2) and their like mean, under its process's
// threads_lock, and folds the results by join(). -ESRCH: there is no such thread.
template <class Of, class Join>
std::int64_t for_each_meant(Thread& thread, int which, int who, Of of_each, Join join) {
  Family& family = thread.process.family;
  std::vector<std::shared_ptr<Process>> processes;
  int tid = 0;
  if (which == PRIO_USER) {
    const unsigned user = who ? static_cast<unsigned>(who) : thread.credentials()->user.real;
    processes = family.all();
    std::erase_if(processes, [&](const auto& p) { return p->user != user; });
  } else if (which == PRIO_PGRP) {
    processes = family.group(who ? who : family.relations(thread.process.pid)->group);
  } else {
    tid = who ? who : thread.tid;
    if (auto process = family.find_by_thread(tid)) processes = {std::move(process)};
  }
  std::int64_t result = -ESRCH;
  for (const auto& process : processes) {
    LockGuard guard(process->threads_lock);
    for (const auto& t : process->threads)
      if (tid == 0 || t->goes_by(tid)) result = join(result, of_each(*t));
  }
  return result;
}

// join() of calls that change threads: the first failure counts.
std::int64_t first_failure(std::int64_t sum, std::int64_t r) { return sum == -ESRCH || r != 0 ? r : sum; }

bool within_nice_limit(Thread& thread, int nice) {
  return static_cast<rlim64_t>(20 - nice) <= thread.process.limits.soft(RLIMIT_NICE);
}

std::int64_t sys_getpriority(Thread& thread, const Args& a) {
  if (a.u32(0) > PRIO_USER) return -EINVAL;
  const auto of_each = [](Thread& each) { return std::int64_t{20} - each.nice(); };  // as the raw call encodes it
  return for_each_meant(thread, a.i32(0), a.i32(1), of_each,
                        [](std::int64_t sum, std::int64_t r) { return std::max(sum, r); });
}

std::int64_t sys_setpriority(Thread& thread, const Args& a) {
  if (a.u32(0) > PRIO_USER) return -EINVAL;
  const int nice = std::clamp(a.i32(2), -20, 19);
  const Credentials& own = *thread.credentials();
  const auto of_each = [&](Thread& each) -> std::int64_t {
    if (!may_schedule(own, *each.credentials())) return -EPERM;
    if (nice < each.nice() && !own.may(CAP_SYS_NICE) && !within_nice_limit(each, nice)) return -EACCES;
    return nice == each.nice() ? 0 : -each.set_nice(nice);
  };
  return for_each_meant(thread, a.i32(0), a.i32(1), of_each, first_failure);
}

// --- policies ---

struct Wanted {
  std::optional<int> policy;  // none: policy and reset_on_fork stay
  unsigned priority = 0;
  bool reset_on_fork = false;
  std::optional<int> nice = {};
  bool only_reset = false;  // the others are checked, but not set
};

bool may_change(Thread& thread, Thread& target, const Wanted& wanted) {
  const Credentials& own = *thread.credentials();
  if (own.may(CAP_SYS_NICE)) return true;
  const Scheduling& now = target.scheduling;
  if (wanted.nice && fair(*wanted.policy) && *wanted.nice < target.nice() && !within_nice_limit(target, *wanted.nice))
    return false;
  if (real_time(*wanted.policy)) {
    const rlim64_t most = target.process.limits.soft(RLIMIT_RTPRIO);
    if (*wanted.policy != now.policy && most == 0) return false;
    if (wanted.priority > static_cast<unsigned>(now.priority) && wanted.priority > most) return false;
  }
  if (now.policy == SCHED_IDLE && *wanted.policy != SCHED_IDLE && !within_nice_limit(target, target.nice()))
    return false;
  if (now.reset_on_fork && !wanted.reset_on_fork) return false;
  return may_schedule(own, *target.credentials());
}

std::int64_t change(Thread& thread, int tid, Wanted wanted) {
  return thread.process.family.with_thread(thread, tid, [&](Thread& t) -> std::int64_t {
    Scheduling& now = t.scheduling;
    if (!wanted.policy) wanted.policy = now.policy, wanted.reset_on_fork = now.reset_on_fork;
    if (*wanted.policy == SCHED_DEADLINE)
      return thread.credentials()->may(CAP_SYS_NICE) ? -EBUSY : -EPERM;  // no thread gets a guaranteed runtime
    if (wanted.priority > kMostPriority) return -EINVAL;
    const Scheduling next{*wanted.policy, static_cast<int>(wanted.priority), wanted.reset_on_fork, now.io_priority};
    if (!possible(next)) return -EINVAL;
    if (!may_change(thread, t, wanted)) return -EPERM;
    if (wanted.only_reset) {
      now.reset_on_fork = wanted.reset_on_fork;
      return 0;
    }
    if (wanted.nice && fair(next.policy) && *wanted.nice != t.nice())
      if (int error = t.set_nice(*wanted.nice)) return -error;
    now = next;
    return 0;
  });
}

std::int64_t set_parameters(Thread& thread, int tid, mm::Gva at, std::optional<int> policy) {
  if (tid < 0 || !at) return -EINVAL;
  auto param = read_user<sched_param>(thread.memory(), at);
  if (!param) return -param.error();
  const bool reset = policy && (*policy & SCHED_RESET_ON_FORK);
  if (policy) *policy &= ~SCHED_RESET_ON_FORK;
  return change(thread, tid,
                {.policy = policy, .priority = static_cast<unsigned>(param->sched_priority), .reset_on_fork = reset});
}

std::int64_t sys_sched_setparam(Thread& thread, const Args& a) { return set_parameters(thread, a.i32(0), a[1], {}); }
std::int64_t sys_sched_setscheduler(Thread& thread, const Args& a) {
  return a.i32(1) < 0 ? -EINVAL : set_parameters(thread, a.i32(0), a[2], a.i32(1));
}

// A copy of what a thread has. Errors: EINVAL, ESRCH.
struct Scheduled {
  Scheduling scheduling;
  int nice = 0;
};
OrErrno<Scheduled> scheduling_of(Thread& thread, int tid) {
  if (tid < 0) return err(EINVAL);
  Scheduled found;
  const std::int64_t r = thread.process.family.with_thread(thread, tid, [&](const Thread& t) {
    found = {t.scheduling, t.nice()};
    return 0;
  });
  return r < 0 ? OrErrno<Scheduled>(err(static_cast<int>(-r))) : found;
}

std::int64_t sys_sched_getscheduler(Thread& thread, const Args& a) {
  auto found = scheduling_of(thread, a.i32(0));
  return found ? found->scheduling.policy | (found->scheduling.reset_on_fork ? SCHED_RESET_ON_FORK : 0)
               : -found.error();
}
std::int64_t sys_sched_getparam(Thread& thread, const Args& a) {
  if (!a[1]) return -EINVAL;
  auto found = scheduling_of(thread, a.i32(0));
  return found ? put_user(thread.memory(), a[1], sched_param{.sched_priority = found->scheduling.priority})
               : -found.error();
}

std::int64_t priority_bound(int policy, bool upper) {
  if (real_time(policy)) return upper ? kMostPriority : 1;
  return fair(policy) || policy == SCHED_IDLE || policy == SCHED_DEADLINE ? 0 : -EINVAL;
}
std::int64_t sys_sched_get_priority_max(Thread&, const Args& a) { return priority_bound(a.i32(0), true); }
std::int64_t sys_sched_get_priority_min(Thread&, const Args& a) { return priority_bound(a.i32(0), false); }

std::int64_t sys_sched_rr_get_interval(Thread& thread, const Args& a) {
  auto found = scheduling_of(thread, a.i32(0));
  if (!found) return -found.error();
  timespec interval{0, 4'000'000};
  if (found->scheduling.policy == SCHED_RR) interval.tv_nsec = 100'000'000;
  if (found->scheduling.policy == SCHED_FIFO) interval.tv_nsec = 0;
  return put_user(thread.memory(), a[1], interval);
}

// Linux's struct sched_attr, whose header cannot be included beside <sched.h>.
struct Attributes {
  std::uint32_t size, policy;
  std::uint64_t flags;
  std::int32_t nice;
  std::uint32_t priority;
  std::uint64_t runtime, deadline, period;
  std::uint32_t util_min, util_max;
};
constexpr std::uint32_t kFirstSize = 48;  // without the last two

OrErrno<Attributes> read_attributes(Thread& thread, mm::Gva at) {
  auto size = read_user<std::uint32_t>(thread.memory(), at);
  if (!size) return err(size.error());
  const std::uint32_t bytes = *size ? *size : kFirstSize;
  Attributes attributes{};
  if (bytes >= kFirstSize && bytes <= mm::kPageSize) {
    std::vector<std::byte> given(bytes);
    if (!thread.memory().read(at, given)) return err(EFAULT);
    const std::size_t known = std::min<std::size_t>(bytes, sizeof attributes);
    std::memcpy(&attributes, given.data(), known);
    if (std::ranges::all_of(std::span(given).subspan(known), [](std::byte b) { return b == std::byte{0}; }))
      return attributes;
  }
  return err(put_user<std::uint32_t>(thread.memory(), at, sizeof attributes) ? EFAULT : E2BIG);
}

std::int64_t sys_sched_setattr(Thread& thread, const Args& a) {
  constexpr std::uint64_t kClamps = SCHED_FLAG_UTIL_CLAMP_MIN | SCHED_FLAG_UTIL_CLAMP_MAX;
  if (!a[1] || a.i32(0) < 0 || a.u32(2)) return -EINVAL;
  auto given = read_attributes(thread, a[1]);
  if (!given) return -given.error();
  if (static_cast<int>(given->policy) < 0 || (given->flags & ~std::uint64_t{SCHED_FLAG_ALL})) return -EINVAL;
  if (given->flags & kClamps) return -EOPNOTSUPP;
  auto found = scheduling_of(thread, a.i32(0));
  if (!found) return -found.error();
  Wanted wanted{.policy = static_cast<int>(given->policy),
                .priority = given->priority,
                .reset_on_fork = (given->flags & SCHED_FLAG_RESET_ON_FORK) != 0,
                .nice = std::clamp(given->nice, -20, 19)};
  if (given->flags & SCHED_FLAG_KEEP_POLICY) wanted.policy.reset();
  if (given->flags & SCHED_FLAG_KEEP_PARAMS) {
    wanted.only_reset = true;  // Linux keeps the policy, too
    if (real_time(found->scheduling.policy)) wanted.priority = static_cast<unsigned>(found->scheduling.priority);
    else wanted.nice = found->nice;
  }
  return change(thread, a.i32(0), wanted);
}

std::int64_t sys_sched_getattr(Thread& thread, const Args& a) {
  const std::uint32_t size = a.u32(2);
  if (!a[1] || size > mm::kPageSize || size < kFirstSize || a.u32(3)) return -EINVAL;
  auto found = scheduling_of(thread, a.i32(0));
  if (!found) return -found.error();
  const Scheduling& s = found->scheduling;
  Attributes told{};
  told.size = std::min<std::uint32_t>(size, sizeof told);
  told.policy = static_cast<std::uint32_t>(s.policy);
  if (s.reset_on_fork) told.flags = SCHED_FLAG_RESET_ON_FORK;
  if (real_time(s.policy)) told.priority = static_cast<std::uint32_t>(s.priority);
  else told.nice = found->nice;
  return thread.memory().write(a[1], std::as_bytes(std::span(&told, 1)).first(told.size)) ? 0 : -EFAULT;
}

// --- input and output ---

// IOPRIO_WHO_PROCESS and what follows are PRIO_PROCESS and what follows, from 1 on.
bool known_kind(int which) { return which >= IOPRIO_WHO_PROCESS && which <= IOPRIO_WHO_USER; }

std::int64_t sys_ioprio_set(Thread& thread, const Args& a) {
  const Credentials& own = *thread.credentials();
  const bool privileged = own.may(CAP_SYS_NICE);
  const unsigned wanted = a.u32(2);
  if (int error = refused_io_priority(wanted, privileged)) return -error;
  if (!known_kind(a.i32(0))) return -EINVAL;
  const auto of_each = [&](Thread& each) -> std::int64_t {
    const unsigned user = each.credentials()->user.real;
    if (user != own.user.effective && user != own.user.real && !privileged) return -EPERM;
    each.scheduling.io_priority = wanted;
    return 0;
  };
  return for_each_meant(thread, a.i32(0) - IOPRIO_WHO_PROCESS, a.i32(1), of_each, first_failure);
}

std::int64_t sys_ioprio_get(Thread& thread, const Args& a) {
  if (!known_kind(a.i32(0))) return -EINVAL;
  const bool one = a.i32(0) == IOPRIO_WHO_PROCESS;  // of one thread what was set, of several the best in effect
  const auto of_each = [&](Thread& each) -> std::int64_t {
    return one ? each.scheduling.io_priority : io_priority(each.scheduling, each.nice());
  };
  return for_each_meant(thread, a.i32(0) - IOPRIO_WHO_PROCESS, a.i32(1), of_each,
                        [](std::int64_t sum, std::int64_t r) { return sum == -ESRCH ? r : std::min(sum, r); });
}

}  // namespace

bool possible(const Scheduling& s) {
  if (!fair(s.policy) && !real_time(s.policy) && s.policy != SCHED_IDLE) return false;
  return real_time(s.policy) ? s.priority >= 1 && s.priority <= kMostPriority : s.priority == 0;
}

void inherit(Scheduling& s, int& nice) {
  if (!s.reset_on_fork) return;
  nice = real_time(s.policy) ? 0 : std::max(nice, 0);
  if (real_time(s.policy)) s.policy = SCHED_OTHER, s.priority = 0;
  s.reset_on_fork = false;
}

unsigned io_priority(const Scheduling& s, int nice) {
  if (IOPRIO_PRIO_CLASS(s.io_priority) != IOPRIO_CLASS_NONE) return s.io_priority;
  const unsigned of = s.policy == SCHED_IDLE ? IOPRIO_CLASS_IDLE
                      : real_time(s.policy)  ? IOPRIO_CLASS_RT
                                             : IOPRIO_CLASS_BE;
  return IOPRIO_PRIO_VALUE(of, static_cast<unsigned>(nice + 20) / 5);
}

int refused_io_priority(unsigned wanted, bool privileged) {
  const unsigned level = wanted & IOPRIO_PRIO_MASK;
  switch (wanted >> IOPRIO_CLASS_SHIFT) {
    case IOPRIO_CLASS_NONE: return level ? EINVAL : 0;
    case IOPRIO_CLASS_RT: return !privileged ? EPERM : level >= IOPRIO_NR_LEVELS ? EINVAL : 0;
    case IOPRIO_CLASS_BE: return level >= IOPRIO_NR_LEVELS ? EINVAL : 0;
    case IOPRIO_CLASS_IDLE: return 0;
    default: return EINVAL;
  }
}

std::span<const Definition> scheduling_calls() {
  static constexpr Definition kCalls[] = {
      {Call::sched_yield, sys_sched_yield},
      {Call::getcpu, sys_getcpu},
      {Call::sched_getaffinity, sys_sched_getaffinity},
      {Call::sched_setaffinity, sys_sched_setaffinity},
      {Call::getpriority, sys_getpriority},
      {Call::setpriority, sys_setpriority},
      {Call::sched_getscheduler, sys_sched_getscheduler},
      {Call::sched_setscheduler, sys_sched_setscheduler},
      {Call::sched_getparam, sys_sched_getparam},
      {Call::sched_setparam, sys_sched_setparam},
      {Call::sched_getattr, sys_sched_getattr},
      {Call::sched_setattr, sys_sched_setattr},
      {Call::sched_get_priority_max, sys_sched_get_priority_max},
      {Call::sched_get_priority_min, sys_sched_get_priority_min},
      {Call::sched_rr_get_interval, sys_sched_rr_get_interval},
      {Call::ioprio_get, sys_ioprio_get},
      {Call::ioprio_set, sys_ioprio_set},
  };
  return kCalls;
}

}  // namespace ramet::vmm
