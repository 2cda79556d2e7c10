// System calls about signals.
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <vector>

#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/signals/frame.hpp"
#include "vmm/linux/time/guest_time.hpp"
#include "vmm/linux/time/timers.hpp"
#include "vmm/linux/user_memory.hpp"

namespace ramet::vmm {

namespace {

constexpr std::uint64_t kSetSize = sizeof(SignalSet);

bool valid(int sig) { return sig >= 1 && sig <= kSignals; }

// --- actions and masks ---

std::int64_t sys_rt_sigaction(Thread& thread, const Args& a) {
  struct UserAction {  // the kernel's struct sigaction
    std::uint64_t handler, flags, restorer, mask;
  };
  const int sig = a.i32(0);
  if (a[3] != kSetSize || !valid(sig)) return -EINVAL;
  std::optional<UserAction> wanted;
  if (a[1]) {
    auto read = read_user<UserAction>(thread.memory(), a[1]);
    if (!read) return -EFAULT;
    if (kUnblockable & bit_of(sig)) return -EINVAL;
    wanted = *read;
  }
  SignalAction old;
  {
    Process& process = thread.process;
    // Threads too: an ignored signal is thrown away wherever it is pending.
    LockGuard threads(process.threads_lock);
    LockGuard guard(process.signals.lock);
    SignalAction& action = process.signals.actions[sig - 1];
    old = action;
    if (wanted) {
      action = {wanted->handler, wanted->flags, wanted->restorer, wanted->mask & ~kUnblockable};
      if (action.handler == 1 || (action.handler == 0 && (kDefaultIgnored & bit_of(sig)))) {
        discard_signals(process.signals.pending, bit_of(sig));
        for (auto& t : process.threads) discard_signals(t->signals.pending, bit_of(sig));
      }
    }
  }
  if (!a[2]) return 0;
  return put_user(thread.memory(), a[2], UserAction{old.handler, old.flags, old.restorer, old.mask});
}

std::int64_t sys_rt_sigprocmask(Thread& thread, const Args& a) {
  if (a[3] != kSetSize) return -EINVAL;
  const SignalSet old = thread.signals.blocked;  // only this thread changes it
  if (a[1]) {
    auto set = read_user<SignalSet>(thread.memory(), a[1]);
    if (!set) return -EFAULT;
    switch (a.i32(0)) {
      case SIG_BLOCK: set_blocked(thread, old | *set); break;
      case SIG_UNBLOCK: set_blocked(thread, old & ~*set); break;
      case SIG_SETMASK: set_blocked(thread, *set); break;
      default: return -EINVAL;
    }
  }
  if (!a[2]) return 0;
  return put_user(thread.memory(), a[2], old);
}

std::int64_t sys_rt_sigpending(Thread& thread, const Args& a) {
  if (a[1] > kSetSize) return -EINVAL;
  SignalSet set;
  {
    LockGuard guard(thread.process.signals.lock);
    set = (thread.signals.pending.set | thread.process.signals.pending.set) & thread.signals.blocked;
  }
  auto bytes = std::as_bytes(std::span(&set, 1)).first(a[1]);
  return thread.memory().write(a[0], bytes) ? 0 : -EFAULT;
}

// --- waiting ---

std::int64_t sys_pause(Thread& thread, const Args&) { return wait_for_signal(thread); }

std::int64_t sys_rt_sigsuspend(Thread& thread, const Args& a) {
  if (a[1] != kSetSize) return -EINVAL;
  auto set = read_user<SignalSet>(thread.memory(), a[0]);
  if (!set) return -EFAULT;
  thread.set_temporary_mask(*set);
  return wait_for_signal(thread);
}

std::int64_t sys_rt_sigtimedwait(Thread& thread, const Args& a) {
  if (a[3] != kSetSize) return -EINVAL;
  auto set = read_user<SignalSet>(thread.memory(), a[0]);
  if (!set) return -EFAULT;
  const SignalSet wanted = *set & ~kUnblockable;
  timespec deadline{};
  if (a[2]) {
    auto time = read_time(thread.memory(), a[2]);
    if (!time) return -time.error();
    deadline = deadline_after(CLOCK_MONOTONIC, *time);
  }
  std::optional<siginfo_t> info;
  SignalSet left = 0;  // also pending in the process
  for (bool expired = false;;) {
    bool stop = thread.should_stop_waiting();
    {
      LockGuard guard(thread.process.signals.lock);
      info = take_signal(thread, wanted);
      left = thread.process.signals.pending.set & wanted;
      // Signals that are waited for are to wake this thread although it blocks them.
      thread.signals.awaited = info || expired || stop ? 0 : wanted;
    }
    if (info) break;
    if (stop) return -EINTR;
    if (expired) return -EAGAIN;
    std::int64_t r = a[2] ? thread.blocking(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME,
                                            reinterpret_cast<std::uint64_t>(&deadline))
                          : thread.blocking(SYS_ppoll);
    expired = r != -EINTR;
  }
  thread.process.timers->taken(*info);
  // They may have been left to this thread, which does not wait for them any more.
  if (left) retarget_signals(thread.process, thread, left);
  if (a[1] && !write_user(thread.memory(), a[1], *info)) return -EFAULT;
  return info->si_signo;
}

// --- sending ---

// Every thread may signal its own process, and send SIGCONT to every process of its session.
bool may_signal(Thread& thread, Process& target, int sig) {
  if (&target == &thread.process || may_signal(*thread.credentials(), *target.credentials())) return true;
  Family& family = thread.process.family;
  const auto own = family.relations(thread.process.pid), other = family.relations(target.pid);
  return sig == SIGCONT && own && other && own->session == other->session;
}

std::int64_t sys_kill(Thread& thread, const Args& a) {
  Process& process = thread.process;
  Family& family = process.family;
  const int pid = a.i32(0), sig = a.i32(1);
  if (pid == INT_MIN) return -ESRCH;
  std::vector<std::shared_ptr<Process>> targets;
  if (pid > 0) {
    auto one = family.find_by_any(pid);
    if (!one && !family.exists(pid)) return -ESRCH;
    if (one) targets.push_back(std::move(one));
  } else if (pid == -1) {  // every process but the caller's
    targets = family.all();
    std::erase_if(targets, [&](const auto& p) { return p.get() == &process; });
  } else {
    targets = family.group(pid == 0 ? family.relations(process.pid)->group : -pid);
  }
  if (targets.empty() && pid <= 0) return -ESRCH;
  if (sig < 0 || sig > kSignals) return -EINVAL;
  const siginfo_t info = signal_from(process, sig, SI_USER);
  // EPERM only if no process may be sent to.
  std::int64_t result = 0;
  bool any = targets.empty();
  for (const auto& target : targets) {
    if (!may_signal(thread, *target, sig)) continue;
    any = true;
    result = std::min(result, send_to_process(*target, info));
  }
  return any ? result : -EPERM;
}

// tgid 0: of any process.
std::int64_t send_tkill(Thread& thread, int tgid, int tid, const siginfo_t& info) {
  auto process = tgid ? thread.process.family.find(tgid) : thread.process.family.find_by_thread(tid);
  if (!process) return -ESRCH;
  if (info.si_signo < 0 || info.si_signo > kSignals) return -EINVAL;
  return may_signal(thread, *process, info.si_signo) ? send_to_thread(*process, tid, info) : -EPERM;
}
std::int64_t sys_tkill(Thread& thread, const Args& a) {
  if (a.i32(0) <= 0) return -EINVAL;
  return send_tkill(thread, 0, a.i32(0), signal_from(thread.process, a.i32(1), SI_TKILL));
}
std::int64_t sys_tgkill(Thread& thread, const Args& a) {
  if (a.i32(0) <= 0 || a.i32(1) <= 0) return -EINVAL;
  return send_tkill(thread, a.i32(0), a.i32(1), signal_from(thread.process, a.i32(2), SI_TKILL));
}

OrErrno<siginfo_t> read_info(Thread& thread, mm::Gva at, int sig) {
  auto info = read_user<siginfo_t>(thread.memory(), at);
  if (info) info->si_signo = sig;
  return info;
}
// Whether the signal claims to come from the kernel or kill(2), which is refused for other processes.
bool pretends(const Thread& thread, int pid, const siginfo_t& info) {
  return (info.si_code >= 0 || info.si_code == SI_TKILL) && pid != thread.process.pid;
}
std::int64_t sys_rt_sigqueueinfo(Thread& thread, const Args& a) {
  auto info = read_info(thread, a[2], a.i32(1));
  if (!info) return -EFAULT;
  if (pretends(thread, a.i32(0), *info)) return -EPERM;
  Family& family = thread.process.family;
  auto process = family.find(a.i32(0));
  if (!process) return family.exists(a.i32(0)) ? 0 : -ESRCH;
  if (info->si_signo < 0 || info->si_signo > kSignals) return -EINVAL;
  return may_signal(thread, *process, info->si_signo) ? send_to_process(*process, *info) : -EPERM;
}
std::int64_t sys_rt_tgsigqueueinfo(Thread& thread, const Args& a) {
  if (a.i32(0) <= 0 || a.i32(1) <= 0) return -EINVAL;
  auto info = read_info(thread, a[3], a.i32(2));
  if (!info) return -EFAULT;
  if (pretends(thread, a.i32(0), *info)) return -EPERM;
  return send_tkill(thread, a.i32(0), a.i32(1), *info);
}

// --- the alternate stack ---

struct UserStack {
  std::uint64_t sp;
  std::int32_t flags;
  std::uint32_t pad;
  std::uint64_t size;
};

std::int64_t set_stack(Thread& thread, const arch::SignalStack& stack, mm::Gva sp) {
  auto& own = thread.signals.altstack;
  if (on_alternate_stack(thread, sp)) return -EPERM;
  const int mode = stack.flags & ~kAutodisarm;
  if (mode != SS_DISABLE && mode != SS_ONSTACK && mode != 0) return -EINVAL;
  if (mode == SS_DISABLE) {
    own = {.flags = stack.flags};
    return 0;
  }
  if (stack.size < thread.abi().min_signal_stack) return -ENOMEM;
  own = stack;
  return 0;
}

std::int64_t sys_sigaltstack(Thread& thread, const Args& a) {
  const auto old = thread.signals.altstack;
  const mm::Gva sp = thread.sp();
  const bool on = on_alternate_stack(thread, sp);
  if (a[0]) {
    auto stack = read_user<UserStack>(thread.memory(), a[0]);
    if (!stack) return -EFAULT;
    if (std::int64_t r = set_stack(thread, {.sp = stack->sp, .size = stack->size, .flags = stack->flags}, sp); r != 0)
      return r;
  }
  if (!a[1]) return 0;
  const int state = old.size == 0 ? SS_DISABLE : on ? SS_ONSTACK : 0;
  UserStack shown{old.sp, state | (old.flags & kAutodisarm), 0, old.size};
  return put_user(thread.memory(), a[1], shown);
}

// --- returning from a handler ---

void bad_return(Thread& thread) {
  const auto& trap = thread.abi().trap;
  if (!trap.bad_return_at_sp) return send_fault(thread, SIGSEGV, SI_KERNEL, 0, trap.bad_return, 0);
  // From a frame that cannot be read, Linux has taken a stack pointer of 0 by then.
  const mm::Gva sp = thread.sp() % 16 != 0 ? thread.sp() : 0;
  bool mapped = false;  // as for Linux: at sp, or anywhere above
  thread.memory().visit_regions([&](const mm::Region& region) { mapped |= region.end > sp; });
  send_fault(thread, SIGSEGV, mapped ? SEGV_ACCERR : SEGV_MAPERR, sp, trap.bad_return, 0);
}

std::int64_t sys_rt_sigreturn(Thread& thread, const Args&) {
  const auto read = [&](std::uint64_t at, std::span<std::byte> out) {
    return thread.memory().read(at, out).has_value();
  };
  FpState fp;
  std::optional<arch::Returned> to;
  if (thread.vcpu().get_fp(fp))
    to = thread.abi().leave_handler(thread.regs(), thread.image().machine().features().fp, fp, read);
  if (!to || !thread.vcpu().set_fp(fp)) {
    bad_return(thread);
    return kNoResult;
  }
  set_blocked(thread, to->mask);
  thread.regs() = to->regs;
  thread.restart = nullptr;
  // Linux ignores what is wrong with the stack here, too.
  (void)set_stack(thread, to->stack, thread.sp());
  return kNoResult;
}

// Goes on with a call that a signal without a handler interrupted.
std::int64_t sys_restart_syscall(Thread& thread, const Args&) {
  if (!thread.restart) return -EINTR;
  auto restart = std::exchange(thread.restart, nullptr);
  return restart(thread);
}

}  // namespace

std::span<const Definition> signal_calls() {
  static constexpr Definition kCalls[] = {
      {Call::rt_sigaction, sys_rt_sigaction},
      {Call::rt_sigprocmask, sys_rt_sigprocmask},
      {Call::rt_sigpending, sys_rt_sigpending},
      {Call::rt_sigsuspend, sys_rt_sigsuspend},
      {Call::rt_sigtimedwait, sys_rt_sigtimedwait},
      {Call::rt_sigqueueinfo, sys_rt_sigqueueinfo},
      {Call::rt_tgsigqueueinfo, sys_rt_tgsigqueueinfo},
      {Call::rt_sigreturn, sys_rt_sigreturn},
      {Call::restart_syscall, sys_restart_syscall},
      {Call::pause, sys_pause},
      {Call::kill, sys_kill},
      {Call::tkill, sys_tkill},
      {Call::tgkill, sys_tgkill},
      {Call::sigaltstack, sys_sigaltstack},
  };
  return kCalls;
}

std::int64_t wait_for_signal(Thread& thread) {
  while (!thread.should_stop_waiting())
    thread.blocking(SYS_ppoll);  // of nothing: pause(2), which not every architecture has
  return kRestartNoHand;
}

}  // namespace ramet::vmm
