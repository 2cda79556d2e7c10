// System calls about other processes of the family: waiting for children, parents, groups and sessions.
#include <linux/futex.h>
#include <linux/wait.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>

#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/user_memory.hpp"

namespace ramet::vmm {
namespace {

using WaitRequest = Family::Request;
using Child = Family::Child;

// Waits until something has happened to such a child; none: nothing yet, and WNOHANG.
std::expected<std::optional<Child>, std::int64_t> wait_for(Thread& thread, const WaitRequest& request) {
  Family& family = thread.process.family;
  std::atomic<std::uint32_t>& events = family.events(thread.process.pid);
  for (bool interrupted = false;;) {
    const std::uint32_t seen = events.load(std::memory_order_acquire);
    auto child = family.reap(thread.process.pid, request);
    if (!child) return std::unexpected(-child.error());
    if (*child || (request.options & WNOHANG)) return *child;
    // After reap(): the signal may be about the very child that is waited for.
    if (interrupted) return std::unexpected(kRestartSys);
    std::int64_t r = thread.blocking(SYS_futex, reinterpret_cast<std::uint64_t>(&events), FUTEX_WAIT_PRIVATE, seen);
    interrupted = r == -EINTR && thread.should_stop_waiting();
  }
}

std::int64_t sys_wait4(Thread& thread, const Args& a) {
  const int pid = a.i32(0), options = a.i32(2);
  constexpr int kWNoThread = __WNOTHREAD;
  if (options & ~(WNOHANG | WUNTRACED | WCONTINUED | kWNoThread | __WCLONE | __WALL)) return -EINVAL;
  if (pid == INT_MIN) return -ESRCH;
  WaitRequest request{.options = options | WEXITED};
  if (pid > 0) request.which = WaitRequest::Which::Pid, request.id = pid;
  else if (pid != -1) request.which = WaitRequest::Which::Group, request.id = -pid;
  auto child = wait_for(thread, request);
  if (!child) return child.error();
  if (!*child) return 0;
  if (a[1] && !write_user(thread.memory(), a[1], (*child)->status)) return -EFAULT;
  if (a[3] && !write_user(thread.memory(), a[3], (*child)->usage)) return -EFAULT;
  return (*child)->pid;
}

std::int64_t sys_waitid(Thread& thread, const Args& a) {
  const int options = a.i32(3);
  if (options & ~(WNOHANG | WNOWAIT | WEXITED | WSTOPPED | WCONTINUED | __WNOTHREAD | __WCLONE | __WALL))
    return -EINVAL;
  if (!(options & (WEXITED | WSTOPPED | WCONTINUED))) return -EINVAL;
  WaitRequest request{.id = a.i32(1), .options = options};
  switch (a.i32(0)) {
    case P_ALL: break;
    case P_PID:
      if (request.id <= 0) return -EINVAL;
      request.which = WaitRequest::Which::Pid;
      break;
    case P_PGID:
      if (request.id < 0) return -EINVAL;
      request.which = WaitRequest::Which::Group;
      break;
    default: return -EINVAL;
  }
  auto child = wait_for(thread, request);
  siginfo_t info{};
  if (child && *child) {
    info.si_signo = SIGCHLD;
    info.si_code = (*child)->code;
    info.si_pid = (*child)->pid;
    info.si_uid = (*child)->user;
    info.si_status = (*child)->value;
    if (a[4] && !write_user(thread.memory(), a[4], (*child)->usage)) return -EFAULT;
  }
  if (a[2] && !write_user(thread.memory(), a[2], info)) return -EFAULT;  // zeroes after an error, too
  return child ? 0 : child.error();
}

// --- parents, groups, sessions ---

// By the id of a process or of one of its threads.
std::optional<Family::Relations> relations(Thread& thread, int id) {
  Family& family = thread.process.family;
  auto of = family.relations(id ? id : thread.process.pid);
  if (of || id == 0) return of;
  auto process = family.find_by_any(id);
  return process ? family.relations(process->pid) : std::nullopt;
}

// 0 for the first process, whose parent is outside the family; 1 for orphans.
std::int64_t sys_getppid(Thread& thread, const Args&) {
  const int parent = relations(thread, 0)->parent;
  return parent || thread.process.pid == thread.process.family.first_id() ? parent : 1;
}
std::int64_t sys_getpgrp(Thread& thread, const Args&) { return relations(thread, 0)->group; }
std::int64_t sys_getpgid(Thread& thread, const Args& a) {
  auto of = relations(thread, a.i32(0));
  return of ? of->group : -ESRCH;
}
std::int64_t sys_getsid(Thread& thread, const Args& a) {
  auto of = relations(thread, a.i32(0));
  return of ? of->session : -ESRCH;
}
std::int64_t sys_setsid(Thread& thread, const Args&) {
  auto session = thread.process.family.new_session(thread.process.pid);
  return session ? *session : -session.error();
}
std::int64_t sys_setpgid(Thread& thread, const Args& a) {
  const int caller = thread.process.pid;
  const int pid = a.i32(0) ? a.i32(0) : caller, group = a.i32(1) ? a.i32(1) : pid;
  if (group < 0) return -EINVAL;
  auto done = thread.process.family.set_group(caller, pid, group);
  return done ? 0 : -done.error();
}

}  // namespace

std::span<const Definition> relation_calls() {
  static constexpr Definition kCalls[] = {
      {Call::wait4, sys_wait4},     {Call::waitid, sys_waitid},   {Call::getppid, sys_getppid},
      {Call::getpgrp, sys_getpgrp}, {Call::getpgid, sys_getpgid}, {Call::getsid, sys_getsid},
      {Call::setsid, sys_setsid},   {Call::setpgid, sys_setpgid},
  };
  return kCalls;
}

}  // namespace ramet::vmm
