// Pending signals: queueing them, choosing who takes them, taking them out.
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <climits>
#include <optional>

#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/fatal.hpp"
#include "vmm/linux/processes/process.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/signals/signalfd.hpp"
#include "vmm/linux/signals/state.hpp"

namespace ramet::vmm {
namespace {

constexpr std::size_t kMaxQueued = 1024;  // of a process, whatever its RLIMIT_SIGPENDING
constexpr SignalSet kSynchronous = bit_of(SIGSEGV) | bit_of(SIGBUS) | bit_of(SIGILL) | bit_of(SIGTRAP) |
                                   bit_of(SIGFPE) | bit_of(SIGSYS);

bool is_ignored(const Process& process, int sig) RAMET_REQUIRES(process.signals.lock) {
  const std::uint64_t handler = process.signals.actions[sig - 1].handler;
  return handler == 1 || (handler == 0 && (kDefaultIgnored & bit_of(sig)));
}

bool wants(const Thread& thread, SignalSet set) {
  return (set & (~thread.signals.blocked | thread.signals.awaited)) != 0;
}

// A timer has one signal at a time. True: it is pending already, and has the new expiries as overruns.
bool overrun(PendingSignals& pending, const siginfo_t& info) {
  for (siginfo_t& queued : pending.queue) {
    if (queued.si_code != SI_TIMER || queued.si_signo != info.si_signo || queued.si_timerid != info.si_timerid)
      continue;
    const std::int64_t sum = std::int64_t{queued.si_overrun} + info.si_overrun + 1;
    queued.si_overrun = static_cast<int>(std::min<std::int64_t>(sum, INT_MAX));  // DELAYTIMER_MAX
    return true;
  }
  return false;
}

// Adds the signal to `pending`, one of the process's queues. 0, or -EAGAIN: the queues are full.
std::int64_t queue(Process& process, PendingSignals& pending, const siginfo_t& info)
    RAMET_REQUIRES(process.threads_lock, process.signals.lock) {
  const int sig = info.si_signo;
  const SignalSet bit = bit_of(sig);
  const bool of_timer = info.si_code == SI_TIMER;  // each timer's signal is queued, even a standard one
  const bool standard = sig < 32;
  if (of_timer && overrun(pending, info)) return 0;
  if (standard && !of_timer && (pending.set & bit)) return 0;  // a standard signal is pending once
  // Standard signals of kill(2) and of the kernel always find room.
  if (!standard || info.si_code < 0) {
    const std::size_t most = of_timer ? kMaxQueued
                                      : std::min<rlim64_t>(kMaxQueued, process.limits.soft(RLIMIT_SIGPENDING));
    if (queued_signals(process) >= most) {
      if (of_timer || (!standard && info.si_code != SI_USER)) return -EAGAIN;
      pending.set |= bit;  // arrives without its information, as on Linux
      return 0;
    }
  }
  pending.queue.push_back(info);
  pending.set |= bit;
  return 0;
}

}  // namespace

std::optional<siginfo_t> take_signal(PendingSignals& pending, SignalSet wanted) {
  SignalSet found = pending.set & wanted;
  if (!found) return std::nullopt;
  if (found & kSynchronous) found &= kSynchronous;
  const int sig = std::countr_zero(found) + 1;
  siginfo_t info{};
  info.si_signo = sig;
  bool first = true, more = false;
  for (auto it = pending.queue.begin(); it != pending.queue.end();) {
    if (it->si_signo != sig) {
      ++it;
    } else if (first) {
      info = *it;
      it = pending.queue.erase(it);
      first = false;
    } else {
      more = true;
      break;
    }
  }
  if (!more) pending.set &= ~bit_of(sig);
  return info;
}

std::optional<siginfo_t> take_signal(Thread& thread, SignalSet wanted) RAMET_REQUIRES(thread.process.signals.lock) {
  if (auto own = take_signal(thread.signals.pending, wanted)) return own;
  return take_signal(thread.process.signals.pending, wanted);
}

std::size_t queued_signals(const Process& process) RAMET_REQUIRES(process.threads_lock, process.signals.lock) {
  std::size_t all = process.signals.pending.queue.size();
  for (const auto& thread : process.threads) all += thread->signals.pending.queue.size();
  return all;
}

void discard_signals(PendingSignals& pending, SignalSet set) {
  if (!(pending.set & set)) return;
  pending.set &= ~set;
  std::erase_if(pending.queue, [&](const siginfo_t& info) { return (bit_of(info.si_signo) & set) != 0; });
}

void set_blocked(Thread& thread, SignalSet set) {
  Process& process = thread.process;
  SignalSet left_to_others;
  {
    LockGuard guard(process.signals.lock);
    left_to_others = process.signals.pending.set & set & ~thread.signals.blocked;
    thread.signals.blocked = set & ~kUnblockable;
    if ((thread.signals.pending.set | process.signals.pending.set) & ~thread.signals.blocked) thread.look_at_signals();
  }
  if (left_to_others) retarget_signals(process, thread, left_to_others);
}

void retarget_signals(Process& process, const Thread& except, SignalSet set) {
  LockGuard threads(process.threads_lock);
  LockGuard guard(process.signals.lock);
  SignalSet homeless = process.signals.pending.set & set;
  for (auto& thread : process.threads) {
    if (!homeless) return;
    if (thread.get() == &except || !wants(*thread, homeless)) continue;
    thread->interrupt();
    homeless &= thread->signals.blocked & ~thread->signals.awaited;
  }
}

siginfo_t signal_from(const Process& sender, int sig, int code) {
  siginfo_t info{};
  info.si_signo = sig;
  info.si_code = code;
  info.si_pid = sender.pid;
  info.si_uid = sender.user;
  return info;
}

namespace {

// What stop signals and SIGCONT do when they are sent, whichever thread takes them: they discard each other, and
// SIGCONT lets a stopped process go on. Then the result is ProcessSignals::changes.
std::optional<std::uint64_t> change_run_state(Process& process, int sig)
    RAMET_REQUIRES(process.threads_lock, process.signals.lock) {
  const bool resume = sig == SIGCONT;
  if (!resume && !(kStopSignals & bit_of(sig))) return std::nullopt;
  const SignalSet cancelled = resume ? kStopSignals : bit_of(SIGCONT);
  discard_signals(process.signals.pending, cancelled);
  for (auto& thread : process.threads) discard_signals(thread->signals.pending, cancelled);
  if (!resume) return std::nullopt;
  process.signals.stopping = false;
  if (!process.signals.stopped.exchange(0, std::memory_order_release)) return std::nullopt;
  syscall(SYS_futex, &process.signals.stopped, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
  return ++process.signals.changes;
}

std::int64_t queue_for_process(Process& process, const siginfo_t& info)
    RAMET_REQUIRES(process.threads_lock, process.signals.lock) {
  const SignalSet bit = bit_of(info.si_signo);
  Thread* taker = nullptr;
  for (auto& thread : process.threads) {
    if (!wants(*thread, bit)) continue;
    taker = thread.get();
    break;
  }
  // A blocked signal stays pending even if it would be ignored: the action may change before it is taken.
  if (is_ignored(process, info.si_signo) && (!taker || !(taker->signals.awaited & bit)) &&
      (process.threads.empty() || !(process.threads.front()->signals.blocked & bit)))
    return 0;
  std::int64_t r = queue(process, process.signals.pending, info);
  if (r == 0 && taker) taker->alert();
  return r;
}

std::int64_t queue_for_thread(Process& process, Thread& thread, const siginfo_t& info)
    RAMET_REQUIRES(process.threads_lock, process.signals.lock) {
  const SignalSet bit = bit_of(info.si_signo);
  if (is_ignored(process, info.si_signo) && !((thread.signals.blocked | thread.signals.awaited) & bit)) return 0;
  std::int64_t r = queue(process, thread.signals.pending, info);
  if (r == 0 && wants(thread, bit)) thread.alert();
  return r;
}

// tid 0: to the process.
std::int64_t send(Process& process, int tid, const siginfo_t& info) {
  const int sig = info.si_signo;
  if (sig < 0 || sig > kSignals) return -EINVAL;
  std::int64_t result = 0;
  std::optional<std::uint64_t> resumed;
  {
    LockGuard threads(process.threads_lock);
    Thread* thread = tid ? process.find_thread(tid) : nullptr;
    if (tid && !thread) return -ESRCH;
    if (sig == 0) return 0;
    if (sig != SIGKILL) {
      LockGuard guard(process.signals.lock);
      resumed = change_run_state(process, sig);
      result = thread ? queue_for_thread(process, *thread, info) : queue_for_process(process, info);
      if (!process.signals.fds.empty()) tell_signal_fds(process, sig);
    }
  }
  if (sig == SIGKILL) process.end(killed_by(SIGKILL));
  if (resumed) process.family.continued(process.pid, *resumed);
  return result;
}

}  // namespace

std::int64_t send_to_process(Process& process, const siginfo_t& info) { return send(process, 0, info); }
std::int64_t send_to_thread(Process& process, int tid, const siginfo_t& info) { return send(process, tid, info); }

void send_fault(Thread& thread, int sig, int code, mm::Gva address, std::uint64_t trap, std::uint64_t error) {
  thread.abi().note_fault(thread.last_fault, trap, error, address);
  siginfo_t info{};
  info.si_signo = sig;
  info.si_code = code;
  info.si_addr = reinterpret_cast<void*>(address);
  LockGuard guard(thread.process.signals.lock);
  SignalAction& action = thread.process.signals.actions[sig - 1];
  if (action.handler == 1 || (thread.signals.blocked & bit_of(sig))) action.handler = 0;
  thread.signals.blocked &= ~bit_of(sig);
  thread.signals.faults.push_back(info);
  thread.look_at_signals();
}

}  // namespace ramet::vmm
