// Sending and delivering signals: frames, masks, queues, alternate stacks, restarts, fatal ends.
#include <gtest/gtest.h>

#include "handled_guest.hpp"  // this host's

namespace ramet::vmm {
namespace {

using Cause = HandledGuest::Cause;

std::uint64_t& pc(HandledGuest& g) { return g.regs()[HandledGuest::abi().reg.pc]; }
std::uint64_t& sp(HandledGuest& g) { return g.regs()[HandledGuest::abi().reg.sp]; }
std::uint64_t result(HandledGuest& g) { return g.regs()[HandledGuest::abi().reg.result]; }
std::uint64_t argument(HandledGuest& g, unsigned n) { return g.regs()[HandledGuest::abi().reg.arguments[n]]; }
void fault(HandledGuest& g, int code, mm::Gva address, const Cause& c) {
  send_fault(*g.thread, SIGSEGV, code, address, c.trap, c.error);
  deliver_signals(*g.thread, kNoResult);
}

TEST(Signals, AHandlerFindsItsArgumentsAndReturnsToWhatItInterrupted) {
  HandledGuest g;
  g.handle(SIGUSR1);
  g.regs()[HandledGuest::kKept] = 0xb0b;
  const mm::Gva old_sp = sp(g), old_pc = pc(g);
  g.raise(SIGUSR1);
  ASSERT_TRUE(g.in_handler());
  EXPECT_EQ(argument(g, 0), static_cast<std::uint64_t>(SIGUSR1));
  EXPECT_EQ(argument(g, 1), sp(g) + offsetof(HandledGuest::Frame, info));
  EXPECT_EQ(argument(g, 2), sp(g) + offsetof(HandledGuest::Frame, uc_flags));
  EXPECT_LE(sp(g) + sizeof(HandledGuest::Frame), old_sp - HandledGuest::kRedZone);
  g.expect_convention();
  EXPECT_EQ(g.info().si_signo, SIGUSR1);
  EXPECT_EQ(g.info().si_code, SI_TKILL);
  EXPECT_EQ(g.info().si_pid, g.process->pid);
  EXPECT_EQ(g.thread->signals.blocked, bit_of(SIGUSR1));

  g.sigreturn();
  EXPECT_EQ(sp(g), old_sp);
  EXPECT_EQ(pc(g), old_pc);
  EXPECT_EQ(g.regs()[HandledGuest::kKept], 0xb0bu);
  EXPECT_EQ(result(g), 0u) << "what tgkill returned";
  EXPECT_EQ(g.thread->signals.blocked, 0u);
}

TEST(Signals, AHandlerMayChangeWhereAndWithWhatTheProgramGoesOn) {
  HandledGuest g;
  g.handle(SIGUSR1);
  g.raise(SIGUSR1);
  auto frame = g.frame();
  HandledGuest::pc_of(frame) = 0x404040;
  HandledGuest::kept_of(frame) = 77;
  frame.mask = bit_of(SIGUSR2) | bit_of(SIGKILL);
  ASSERT_TRUE(write_user(g.memory(), sp(g), frame));
  g.sigreturn();
  EXPECT_EQ(pc(g), 0x404040u);
  EXPECT_EQ(g.regs()[HandledGuest::kKept], 77u);
  EXPECT_EQ(g.thread->signals.blocked, bit_of(SIGUSR2)) << "SIGKILL cannot be blocked";
}

TEST(Signals, ABlockedSignalWaitsUntilItIsUnblocked) {
  HandledGuest g;
  g.handle(SIGUSR1);
  g.mask(SIG_BLOCK, bit_of(SIGUSR1));
  g.raise(SIGUSR1);
  EXPECT_FALSE(g.in_handler());
  EXPECT_EQ(g.syscall(SYS_rt_sigpending, {g.buffer, 8}), 0);
  EXPECT_EQ(g.get<SignalSet>(g.buffer), bit_of(SIGUSR1));
  g.mask(SIG_UNBLOCK, bit_of(SIGUSR1));
  EXPECT_TRUE(g.in_handler());
}

TEST(Signals, AStandardSignalIsPendingOnceAndRealTimeOnesEachInOrder) {
  HandledGuest g;
  const int rt = 34;
  g.handle(SIGUSR1);
  g.handle(rt);
  g.handle(rt + 1);
  g.mask(SIG_BLOCK, ~0ull);
  for (int i = 0; i < 3; ++i) {
    g.raise(SIGUSR1);
    for (int sig : {rt + 1, rt}) {
      siginfo_t info{};
      info.si_code = SI_QUEUE;
      info.si_value.sival_int = i;
      ASSERT_TRUE(write_user(g.memory(), g.buffer, info));
      EXPECT_EQ(g.syscall(SYS_rt_sigqueueinfo, {as_word(g.process->pid), as_word(sig), g.buffer}), 0);
    }
  }
  std::vector<std::pair<int, int>> taken;
  std::lock_guard guard(g.process->signals.lock);
  while (auto info = take_signal(*g.thread, ~0ull)) taken.emplace_back(info->si_signo, info->si_value.sival_int);
  taken.front().second = 0;  // SIGUSR1 carries a sender, not a value
  EXPECT_EQ(taken, (std::vector<std::pair<int, int>>{
                       {SIGUSR1, 0}, {rt, 0}, {rt, 1}, {rt, 2}, {rt + 1, 0}, {rt + 1, 1}, {rt + 1, 2}}));
}

TEST(Signals, AThreadThatWaitedForSeveralSignalsLeavesTheOthersToAnotherThreadThatWaits) {
  HandledGuest g;
  g.mask(SIG_BLOCK, ~0ull);
  for (int sig : {SIGUSR1, SIGUSR2}) ASSERT_EQ(send_to_process(*g.process, signal_from(*g.process, sig, SI_USER)), 0);
  FakeVcpu vcpu;
  auto other = std::make_unique<Thread>(*g.process, g.process->image(), vcpu, g.process->pid + 1);
  other->signals.blocked = ~kUnblockable;
  other->signals.awaited = bit_of(SIGUSR2);
  {
    LockGuard guard(g.process->threads_lock);
    g.process->threads.push_back(std::move(other));
  }
  const std::uint64_t set = g.put_object(bit_of(SIGUSR1) | bit_of(SIGUSR2));
  EXPECT_EQ(g.syscall(SYS_rt_sigtimedwait, {set, 0, 0, 8}), SIGUSR1);
  EXPECT_EQ(vcpu.kicks, 1u);
  LockGuard guard(g.process->threads_lock);
  g.process->threads.pop_back();
}

TEST(Signals, TheQueueOfRealTimeSignalsIsBounded) {
  HandledGuest g;
  g.mask(SIG_BLOCK, ~0ull);
  siginfo_t info{};
  info.si_code = SI_QUEUE;
  ASSERT_TRUE(write_user(g.memory(), g.buffer, info));
  std::int64_t r = 0;
  unsigned sent = 0;
  while (sent < 100000 && (r = g.syscall(SYS_rt_sigqueueinfo, {as_word(g.process->pid), 40, g.buffer})) == 0) ++sent;
  EXPECT_EQ(r, -EAGAIN);
  EXPECT_GE(sent, 100u);
}

TEST(Signals, IgnoredSignalsVanish) {
  HandledGuest g;
  g.raise(SIGCHLD);  // by default
  g.handle(SIGUSR1, 0, 0, 1);
  g.raise(SIGUSR1);
  EXPECT_FALSE(g.process->ending());
  EXPECT_EQ(g.thread->signals.pending.set, 0u);
}

TEST(Signals, PendingOnesVanishWhenTheirActionBecomesToIgnoreThem) {
  HandledGuest g;
  g.mask(SIG_BLOCK, bit_of(SIGUSR1));
  g.raise(SIGUSR1);
  EXPECT_EQ(g.thread->signals.pending.set, bit_of(SIGUSR1));
  g.handle(SIGUSR1, 0, 0, 1);
  EXPECT_EQ(g.thread->signals.pending.set, 0u);
}

TEST(Signals, TheMaskOfAnActionHoldsWhileItsHandlerRuns) {
  HandledGuest g;
  g.handle(SIGUSR1, 0, bit_of(SIGUSR2));
  g.handle(SIGUSR2);
  g.raise(SIGUSR1);
  const mm::Gva first = sp(g);
  g.raise(SIGUSR2);
  EXPECT_EQ(sp(g), first) << "SIGUSR2 waits";
  sp(g) = first;
  g.sigreturn();
  EXPECT_TRUE(g.in_handler());
  EXPECT_EQ(g.info().si_signo, SIGUSR2);
}

TEST(Signals, NodeferLetsASignalInterruptItsOwnHandlerAndResethandIsForOnce) {
  HandledGuest g;
  g.handle(SIGUSR1, SA_NODEFER | SA_RESETHAND);
  g.raise(SIGUSR1);
  EXPECT_TRUE(g.in_handler());
  EXPECT_EQ(g.thread->signals.blocked, 0u);
  g.raise(SIGUSR1);
  EXPECT_EQ(g.ending().code, SIGUSR1);
}

TEST(Signals, TheAlternateStackIsUsedWhenAskedForAndKeptWhileOnIt) {
  HandledGuest g;
  struct {
    std::uint64_t sp;
    int flags, pad;
    std::uint64_t size;
  } alternate{g.buffer + 0x100000, 0, 0, 0x4000};
  ASSERT_TRUE(write_user(g.memory(), g.buffer, alternate));
  ASSERT_EQ(g.syscall(SYS_sigaltstack, {g.buffer, 0}), 0);
  g.handle(SIGUSR1, SA_ONSTACK);
  g.handle(SIGUSR2, SA_ONSTACK);
  g.raise(SIGUSR1);
  const mm::Gva first = sp(g);
  EXPECT_GT(first, alternate.sp);
  EXPECT_LE(first, alternate.sp + alternate.size);
  EXPECT_EQ(g.frame().stack_sp, alternate.sp);
  ASSERT_TRUE(write_user(g.memory(), g.buffer, alternate));
  EXPECT_EQ(g.syscall(SYS_sigaltstack, {g.buffer, 0}), -EPERM) << "not while on it";
  EXPECT_EQ(g.syscall(SYS_sigaltstack, {0, g.buffer}), 0);
  EXPECT_EQ(g.get<int>(g.buffer + 8), SS_ONSTACK);
  g.raise(SIGUSR2);
  EXPECT_LT(sp(g), first) << "nested, further down the same stack";
  EXPECT_GT(sp(g), alternate.sp);
}

TEST(Signals, AFrameThatDoesNotFitEndsTheProgramWithSigsegv) {
  HandledGuest g;
  g.handle(SIGUSR1);
  sp(g) = 0x1000;  // nothing is mapped there
  g.raise(SIGUSR1);
  EXPECT_EQ(g.ending().code, SIGSEGV);
  EXPECT_EQ(g.process->ended().status(), 139);
}

TEST(Signals, AFrameThatDoesNotFitOnTheAlternateStackIsNotWrittenBelowIt) {
  HandledGuest g;
  struct {
    std::uint64_t sp;
    int flags, pad;
    std::uint64_t size;
  } alternate{g.buffer + 0x100000, 0, 0, HandledGuest::kSmallStack};
  ASSERT_TRUE(write_user(g.memory(), g.buffer, alternate));
  ASSERT_EQ(g.syscall(SYS_sigaltstack, {g.buffer, 0}), 0);
  g.handle(SIGUSR1, SA_ONSTACK | SA_NODEFER);
  for (int i = 0; i < 4 && !g.process->ending(); ++i) g.raise(SIGUSR1);
  EXPECT_EQ(g.ending().code, SIGSEGV);
  EXPECT_EQ(g.bytes(alternate.sp - 4096, 4096), std::string(4096, '\0'));
}

TEST(Signals, AFaultReachesItsHandlerWithAddressAndCause) {
  HandledGuest g;
  g.handle(SIGSEGV);
  const Cause cause(true, true, false);
  fault(g, SEGV_ACCERR, 0x1234, cause);
  ASSERT_TRUE(g.in_handler());
  EXPECT_EQ(g.info().si_code, SEGV_ACCERR);
  EXPECT_EQ(g.info().si_addr, reinterpret_cast<void*>(0x1234));
  g.expect_cause(cause, 0x1234);
}

TEST(Signals, AFaultThatIsBlockedOrIgnoredIsFatal) {
  for (bool ignored : {false, true}) {
    HandledGuest g;
    g.handle(SIGSEGV, 0, 0, ignored ? 1 : LinuxGuest::kHandler);
    if (!ignored) g.mask(SIG_BLOCK, bit_of(SIGSEGV));
    fault(g, SEGV_MAPERR, 0x1234, Cause(false, false, false));
    EXPECT_EQ(g.ending().code, SIGSEGV);
    EXPECT_EQ(g.process->ended().message,
              "the guest was ended by SIGSEGV (Segmentation fault): read from 0x1234 (not mapped), pc 0x401000");
  }
}

TEST(Signals, FatalMessagesNameStackOverflowsAndWildJumps) {
  {
    HandledGuest g;
    g.process->image()->stack_top = g.stack + LinuxGuest::kStack;
    g.process->image()->stack_limit = LinuxGuest::kStack;
    sp(g) = g.stack - 64;
    fault(g, SEGV_MAPERR, g.stack - 8, Cause(false, true, false));
    EXPECT_NE(g.ending().message.find("stack overflow: the stack reached its limit"), std::string::npos)
        << g.ending().message;
  }
  HandledGuest g;
  pc(g) = 0xdead;
  fault(g, SEGV_MAPERR, 0xdead, Cause(false, false, true));
  EXPECT_NE(g.ending().message.find("jump to 0xdead (not mapped)"), std::string::npos) << g.ending().message;
}

TEST(Signals, ABadFrameAtReturnIsAFault) {
  HandledGuest g;
  sp(g) = 0x2000;
  g.syscall(SYS_rt_sigreturn);
  EXPECT_EQ(g.ending().code, SIGSEGV);
}

// What an interrupted call does, by its code, without a handler, with one, and with SA_RESTART.
struct Restart {
  std::int64_t code;
  bool without, with, with_restart;  // starts again
};
class RestartTest : public ::testing::TestWithParam<Restart> {};

TEST_P(RestartTest, FollowsLinux) {
  const Restart& p = GetParam();
  for (int how = 0; how < 3; ++how) {
    HandledGuest g;
    if (how > 0) g.handle(SIGUSR1, how == 2 ? SA_RESTART : 0);
    const unsigned number_register = HandledGuest::abi().reg.number;
    pc(g) = LinuxGuest::kCode + kSyscallLength;
    g.regs()[number_register] = SYS_read;
    if (how > 0) send_to_thread(*g.process, g.process->pid, signal_from(*g.process, SIGUSR1, SI_USER));
    else g.thread->look_at_signals();  // interrupted for nothing that is left
    deliver_signals(*g.thread, p.code);
    const bool again = how == 0 ? p.without : how == 1 ? p.with : p.with_restart;
    std::uint64_t at = pc(g), returned = result(g), number = g.regs()[number_register];
    if (how > 0) {
      ASSERT_TRUE(g.in_handler());
      auto frame = g.frame();
      at = HandledGuest::pc_of(frame), returned = HandledGuest::result_of(frame),
      number = HandledGuest::number_of(frame);
    }
    EXPECT_EQ(at, again ? LinuxGuest::kCode : LinuxGuest::kCode + kSyscallLength) << "way " << how;
    const std::uint64_t its_number = p.code == kRestartBlock && how == 0 ? SYS_restart_syscall : SYS_read;
    if (again) {
      EXPECT_EQ(number, its_number) << "way " << how;
    } else {
      EXPECT_EQ(static_cast<std::int64_t>(returned), -EINTR) << "way " << how;
    }
  }
}
INSTANTIATE_TEST_SUITE_P(EachCode, RestartTest,
                         ::testing::Values(Restart{kRestartSys, true, false, true},
                                           Restart{kRestartNoIntr, true, true, true},
                                           Restart{kRestartNoHand, true, false, false},
                                           Restart{kRestartBlock, true, false, false}));

TEST(Signals, ATemporaryMaskHoldsUntilTheHandlerHasRun) {
  HandledGuest g;
  g.handle(SIGUSR1);
  g.mask(SIG_BLOCK, bit_of(SIGUSR1) | bit_of(SIGUSR2));
  g.raise(SIGUSR1);
  const SignalSet none = 0;
  ASSERT_TRUE(write_user(g.memory(), g.buffer, none));
  g.syscall(SYS_rt_sigsuspend, {g.buffer, 8});
  ASSERT_TRUE(g.in_handler());
  auto frame = g.frame();
  EXPECT_EQ(static_cast<std::int64_t>(HandledGuest::result_of(frame)), -EINTR);
  EXPECT_EQ(frame.mask, bit_of(SIGUSR1) | bit_of(SIGUSR2));
  EXPECT_EQ(g.thread->signals.blocked, bit_of(SIGUSR1)) << "the temporary mask, and the signal itself";
  g.sigreturn();
  EXPECT_EQ(g.thread->signals.blocked, bit_of(SIGUSR1) | bit_of(SIGUSR2));
}

TEST(Signals, WaitingForASignalTakesItAlthoughItIsBlocked) {
  HandledGuest g;
  g.mask(SIG_BLOCK, bit_of(SIGUSR1));
  g.raise(SIGUSR1);
  const SignalSet set = bit_of(SIGUSR1);
  ASSERT_TRUE(write_user(g.memory(), g.buffer, set));
  EXPECT_EQ(g.syscall(SYS_rt_sigtimedwait, {g.buffer, g.buffer + 64, 0, 8}), SIGUSR1);
  EXPECT_EQ(g.get<siginfo_t>(g.buffer + 64).si_code, SI_TKILL);
  const timespec now{0, 0};
  ASSERT_TRUE(write_user(g.memory(), g.buffer + 512, now));
  EXPECT_EQ(g.syscall(SYS_rt_sigtimedwait, {g.buffer, 0, g.buffer + 512, 8}), -EAGAIN);
}

TEST(Signals, WrongArgumentsAreRefused) {
  HandledGuest g;
  EXPECT_EQ(g.syscall(SYS_rt_sigaction, {0, 0, 0, 8}), -EINVAL);
  EXPECT_EQ(g.syscall(SYS_rt_sigaction, {65, 0, 0, 8}), -EINVAL);
  EXPECT_EQ(g.syscall(SYS_rt_sigaction, {SIGUSR1, 0, 0, 4}), -EINVAL);
  EXPECT_EQ(g.syscall(SYS_rt_sigaction, {SIGKILL, g.buffer, 0, 8}), -EINVAL);
  EXPECT_EQ(g.syscall(SYS_rt_sigaction, {SIGUSR1, 8, 0, 8}), -EFAULT);
  EXPECT_EQ(g.mask(17, 0), -EINVAL);
  EXPECT_EQ(g.syscall(SYS_kill, {as_word(g.process->pid), 65}), -EINVAL);
  EXPECT_EQ(g.syscall(SYS_kill, {1, SIGTERM}), -ESRCH);
  EXPECT_EQ(g.syscall(SYS_tgkill, {as_word(g.process->pid), as_word(g.process->pid + 1), 0}), -ESRCH);
  EXPECT_EQ(g.syscall(SYS_tgkill, {as_word(-1), 1, 0}), -EINVAL);
  EXPECT_EQ(g.syscall(SYS_sigaltstack, {8, 0}), -EFAULT);
}

}  // namespace
}  // namespace ramet::vmm
