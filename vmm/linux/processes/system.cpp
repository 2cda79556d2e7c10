// System calls about the system and its resources: names, limits, usage, random bytes.
#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <memory>
#include <vector>

#include "vmm/linux/limits.hpp"
#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/time/timers.hpp"
#include "vmm/linux/user_memory.hpp"

namespace ramet::vmm {
namespace {

std::int64_t sys_uname(Thread& thread, const Args& a) {
  utsname names{};
  std::strcpy(names.sysname, "Linux");
  std::strcpy(names.nodename, "ramet");
  std::strcpy(names.release, kKernelRelease);
  std::strcpy(names.version, kKernelVersion);
  std::strcpy(names.machine, thread.abi().machine);
  std::strcpy(names.domainname, "(none)");
  return put_user(thread.memory(), a[0], names);
}

std::int64_t sys_sysinfo(Thread& thread, const Args& a) {
  struct sysinfo host{};
  if (sysinfo(&host) != 0) return -errno;
  const mm::Usage usage = thread.memory().usage();
  const std::uint64_t used = usage.data_bytes();
  struct sysinfo info{};
  info.uptime = host.uptime + thread.process.family.clocks.offset(CLOCK_BOOTTIME).tv_sec;
  info.totalram = usage.limit_bytes;
  info.freeram = usage.limit_bytes - std::min(used, usage.limit_bytes);
  info.procs = static_cast<unsigned short>(std::min<std::size_t>(thread.process.thread_count(), 65535));
  info.mem_unit = 1;
  return put_user(thread.memory(), a[0], info);
}

std::int64_t sys_getrandom(Thread& thread, const Args& a) {
  if (a.u32(2) & ~7u) return -EINVAL;
  auto buffers = UserBuffers::one(thread.memory(), a[0], a[1], mm::Access::Write);
  if (!buffers) return a[1] == 0 ? 0 : -buffers.error();
  std::int64_t done = 0;
  for (const iovec& piece : buffers->iov()) {
    // The host's pool has long been initialised, so this does not block; large requests come in parts.
    for (std::size_t at = 0; at < piece.iov_len;) {
      long r = syscall(SYS_getrandom, static_cast<char*>(piece.iov_base) + at,
                       std::min<std::size_t>(piece.iov_len - at, 1 << 20), 0);
      if (r < 0) {
        if (errno == EINTR) return done ? done : kRestartSys;
        return done ? done : -errno;
      }
      at += static_cast<std::size_t>(r);
      done += r;
    }
    if (thread.should_stop_waiting()) break;
  }
  return done;
}

// --- limits ---

std::int64_t prlimit(Thread& thread, Process& of, unsigned resource, mm::Gva set, mm::Gva get) {
  if (resource >= RLIM_NLIMITS) return -EINVAL;
  Limits& limits = of.limits;
  rlimit64 old, wanted{};
  if (set) {
    auto given = read_user<rlimit64>(thread.memory(), set);
    if (!given) return -given.error();
    wanted = *given;
    if (wanted.rlim_cur > wanted.rlim_max) return -EINVAL;
  }
  {
    LockGuard guard(limits.lock);
    rlimit64& current = limits.value[resource];
    old = current;
    if (set) {
      if (wanted.rlim_max > current.rlim_max && !thread.credentials()->may(CAP_SYS_RESOURCE)) return -EPERM;
      current = wanted;
    }
  }
  if (set && resource == RLIMIT_CPU && !of.timers->watch_limit()) return -EAGAIN;
  return get ? put_user(thread.memory(), get, old) : 0;
}

std::int64_t sys_prlimit64(Thread& thread, const Args& a) {
  auto process = thread.process.family.find_by_any(a.i32(0) ? a.i32(0) : thread.process.pid);
  if (!process) return -ESRCH;
  if (process.get() == &thread.process) return prlimit(thread, thread.process, a.u32(1), a[2], a[3]);
  return may_limit(*thread.credentials(), *process->credentials()) ? prlimit(thread, *process, a.u32(1), a[2], a[3])
                                                                   : -EPERM;
}
std::int64_t sys_getrlimit(Thread& thread, const Args& a) {
  return a[1] ? prlimit(thread, thread.process, a.u32(0), 0, a[1]) : -EFAULT;
}
std::int64_t sys_setrlimit(Thread& thread, const Args& a) {
  return a[1] ? prlimit(thread, thread.process, a.u32(0), a[1], 0) : -EFAULT;
}

std::int64_t sys_getrusage(Thread& thread, const Args& a) {
  rusage usage{};
  const int who = a.i32(0);
  switch (who) {
    case RUSAGE_SELF: usage = thread.process.usage(); break;
    case RUSAGE_CHILDREN: usage = thread.process.family.children_usage(thread.process.pid); break;
    case RUSAGE_THREAD: {
      LockGuard guard(thread.process.threads_lock);
      usage = thread.usage();
    }
      usage.ru_maxrss = static_cast<long>(thread.memory().usage().peak_bytes >> 10);
      break;
    default: return -EINVAL;
  }
  return put_user(thread.memory(), a[1], usage);
}

std::int64_t sys_personality(Thread&, const Args& a) { return a.u32(0) == 0 || a.u32(0) == 0xffffffff ? 0 : -EINVAL; }

}  // namespace

std::span<const Definition> system_calls() {
  static constexpr Definition kCalls[] = {
      {Call::uname, sys_uname},         {Call::sysinfo, sys_sysinfo},         {Call::getrandom, sys_getrandom},
      {Call::prlimit64, sys_prlimit64}, {Call::getrlimit, sys_getrlimit},     {Call::setrlimit, sys_setrlimit},
      {Call::getrusage, sys_getrusage}, {Call::personality, sys_personality},
  };
  return kCalls;
}

}  // namespace ramet::vmm
