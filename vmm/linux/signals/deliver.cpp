// Delivery: before each return to the guest, handlers get their frames, default actions are carried out,
// and interrupted system calls are restarted or end with EINTR, all in Linux's order.
#include <cerrno>
#include <cstring>

#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/fatal.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/signals/frame.hpp"
#include "vmm/linux/time/timers.hpp"
#include "vmm/linux/user_memory.hpp"

namespace ramet::vmm {

namespace {

constexpr std::uint64_t kRestorer = 0x04000000;  // SA_RESTORER, which <signal.h> leaves out

bool is_restart(std::int64_t result) {
  return result == kRestartSys || result == kRestartNoIntr || result == kRestartNoHand || result == kRestartBlock;
}

// No handler runs: the call starts again.
void restart_call(Thread& thread, std::int64_t result) {
  // The call's number is still in its register, unless restart_syscall(2) goes on with the call.
  if (result == kRestartBlock) thread.regs()[thread.abi().reg.number] = thread.abi().restart_syscall;
  thread.abi().repeat_call(thread.regs());
}

// What the interrupted code finds when a handler with these flags returns.
void finish_call(Thread& thread, std::int64_t result, std::uint64_t action_flags) {
  bool again = result == kRestartNoIntr || (result == kRestartSys && (action_flags & SA_RESTART));
  if (again) restart_call(thread, result);
  else thread.set_result(static_cast<std::uint64_t>(is_restart(result) ? -EINTR : result));
}

// Builds the handler's frame and points the registers at the handler. False: the stack cannot take it.
bool push_frame(Thread& thread, const siginfo_t& info, const SignalAction& action, SignalSet mask_to_save) {
  const arch::GuestAbi& abi = thread.abi();
  const auto& format = thread.image().machine().features().fp;
  auto& alternate = thread.signals.altstack;

  std::uint64_t sp = thread.sp() - abi.red_zone;
  bool nested = on_alternate_stack(thread, thread.sp());
  bool entering = (action.flags & SA_ONSTACK) && alternate.size != 0 && !on_alternate_stack(thread, sp);
  if (entering) sp = alternate.sp + alternate.size;
  const std::uint64_t frame = abi.frame_place(sp, format);
  if ((nested || entering) && !(frame > alternate.sp && frame - alternate.sp <= alternate.size)) return false;

  FpState fp;
  if (!thread.vcpu().get_fp(fp)) return false;
  arch::Handling handling{.signal = info.si_signo,
                          .info = std::as_bytes(std::span<const siginfo_t, 1>(&info, 1)),
                          .wants_info = (action.flags & SA_SIGINFO) != 0,
                          .handler = action.handler,
                          .restorer = {},
                          .vdso = thread.image().vdso,
                          .mask = mask_to_save,
                          .stack = alternate,
                          .fault = thread.last_fault};
  if (action.flags & kRestorer) handling.restorer = action.restorer;
  const auto write = [&](std::uint64_t at, std::span<const std::byte> bytes) {
    return thread.memory().write(at, bytes).has_value();
  };
  if (!abi.enter_handler(handling, sp, format, thread.regs(), fp, write)) return false;
  if (alternate.flags & kAutodisarm) alternate = {.flags = SS_DISABLE};
  if (abi.handler_resets_fp) thread.vcpu().reset_fp();
  return true;
}

// A signal that is handled, stops or ends the process, with the action as it was when taken.
struct Delivery {
  siginfo_t info;
  SignalAction action;
  SignalSet mask_to_save;
};

// Takes signals until one needs something done. Empty: none left.
std::optional<Delivery> next_delivery(Thread& thread) {
  ThreadSignals& own = thread.signals;
  LockGuard guard(thread.process.signals.lock);
  for (;;) {
    std::optional<siginfo_t> info;
    if (!own.faults.empty()) {
      info = own.faults.front();
      own.faults.pop_front();
    } else {
      info = take_signal(thread, ~own.blocked);
    }
    if (!info) return std::nullopt;
    SignalAction& action = thread.process.signals.actions[info->si_signo - 1];
    if (action.handler == 1 || (action.handler == 0 && (kDefaultIgnored & bit_of(info->si_signo)))) continue;
    if (action.handler == 0 && (kStopSignals & bit_of(info->si_signo))) thread.process.signals.stopping = true;
    Delivery delivery{*info, action, own.saved_mask.value_or(own.blocked)};
    if (action.handler != 0 && (action.flags & SA_RESETHAND)) action.handler = 0;
    return delivery;
  }
}

// The frame could not be built: SIGSEGV, which is fatal if it was the signal itself.
void frame_failed(Thread& thread, int sig) {
  if (sig == SIGSEGV) {
    LockGuard guard(thread.process.signals.lock);
    thread.process.signals.actions[SIGSEGV - 1].handler = 0;
  }
  siginfo_t info{};
  info.si_signo = SIGSEGV;
  info.si_code = SI_KERNEL;
  LockGuard guard(thread.process.signals.lock);
  if ((thread.signals.blocked & bit_of(SIGSEGV)) || thread.process.signals.actions[SIGSEGV - 1].handler == 1)
    thread.process.signals.actions[SIGSEGV - 1].handler = 0;
  thread.signals.blocked &= ~bit_of(SIGSEGV);
  thread.signals.faults.push_back(info);
}

// A stop signal's default action. All but SIGSTOP do nothing in an orphaned group, which no shell could continue.
void stop(Thread& thread, int sig) {
  Process& process = thread.process;
  if (sig != SIGSTOP) {
    auto self = process.family.relations(process.pid);
    if (!self || process.family.orphaned_group(self->group)) return;
  }
  std::uint64_t change;
  {
    LockGuard threads(process.threads_lock);
    LockGuard guard(process.signals.lock);
    if (!std::exchange(process.signals.stopping, false)) return;  // SIGCONT came
    process.signals.stopped.store(1, std::memory_order_release);
    change = ++process.signals.changes;
    for (auto& other : process.threads)
      if (other.get() != &thread) other->alert();
  }
  process.family.stopped(process.pid, sig, change);
}

void wait_while_stopped(Thread& thread) { thread.wait_while(thread.process.signals.stopped, 1, false); }

void restore_saved_mask(Thread& thread) {
  SignalSet mask;
  {
    LockGuard guard(thread.process.signals.lock);
    mask = *std::exchange(thread.signals.saved_mask, std::nullopt);
  }
  set_blocked(thread, mask);
}

}  // namespace

bool on_alternate_stack(const Thread& thread, mm::Gva sp) {
  const auto& a = thread.signals.altstack;
  return !(a.flags & kAutodisarm) && sp > a.sp && sp - a.sp <= a.size;
}

void deliver_signals(Thread& thread, std::int64_t result) {
  // A call that was not interrupted restores the mask before handlers run. Only this thread writes saved_mask.
  if (thread.signals.saved_mask && !(is_restart(result) || result == -EINTR)) restore_saved_mask(thread);

  while (thread.interruption_.raised() && !thread.must_end()) {
    thread.interruption_.clear();  // before looking: what comes later raises it again
    thread.process.take_forwarded(thread);
    wait_while_stopped(thread);
    if (thread.must_end()) break;
    while (auto delivery = next_delivery(thread)) {
      const int sig = delivery->info.si_signo;
      thread.process.timers->taken(delivery->info);
      if (delivery->action.handler == 0 && (kStopSignals & bit_of(sig))) {
        stop(thread, sig);
        wait_while_stopped(thread);
        continue;
      }
      if (delivery->action.handler == 0) {
        thread.process.end(fatal_ending(thread, delivery->info));
        return;
      }
      if (result != kNoResult) {
        finish_call(thread, result, delivery->action.flags);
        result = kNoResult;  // the next handler interrupts the first one's first instruction
      }
      if (!push_frame(thread, delivery->info, delivery->action, delivery->mask_to_save)) {
        frame_failed(thread, sig);
        continue;
      }
      LockGuard guard(thread.process.signals.lock);
      thread.signals.saved_mask.reset();  // the frame holds it
      thread.signals.blocked |= delivery->action.mask & ~kUnblockable;
      if (!(delivery->action.flags & SA_NODEFER)) thread.signals.blocked |= bit_of(sig);
    }
  }
  if (result != kNoResult) {
    // The call ended for the sake of Parking alone: it starts again.
    if (thread.process.parking.asked() && (result == -EINTR || result == kRestartBlock)) result = kRestartNoIntr;
    if (is_restart(result)) restart_call(thread, result);
    else thread.set_result(static_cast<std::uint64_t>(result));
  }
  if (thread.signals.saved_mask) {
    restore_saved_mask(thread);  // may unblock a pending signal
    if (thread.interruption_.raised() && !thread.must_end()) deliver_signals(thread, kNoResult);
  }
}

}  // namespace ramet::vmm
