// Sending and delivering signals: frames, masks, queues, alternate stacks, restarts, fatal ends.
#include <gtest/gtest.h>

#include "tests/vmm/x86_64/handled_guest.hpp"

namespace ramet::vmm {
namespace {

TEST(Signals, AHandlerFindsItsArgumentsAndReturnsToWhatItInterrupted) {
  HandledGuest g;
  g.handle(SIGUSR1);
  g.regs()[Rbx] = 0xb0b;
  const mm::Gva sp = g.regs()[Rsp], pc = g.regs()[Rip];
  g.raise(SIGUSR1);
  ASSERT_TRUE(g.in_handler());
  EXPECT_EQ(g.regs()[Rdi], static_cast<std::uint64_t>(SIGUSR1));
  EXPECT_EQ(g.regs()[Rsi], g.regs()[Rsp] + offsetof(arch::x86_64::SignalFrame, info));
  EXPECT_EQ(g.regs()[Rdx], g.regs()[Rsp] + offsetof(arch::x86_64::SignalFrame, uc_flags));
  EXPECT_EQ(g.regs()[Rax], 0u);
  EXPECT_LE(g.regs()[Rsp] + sizeof(arch::x86_64::SignalFrame), sp - arch::x86_64::kRedZone);
  EXPECT_EQ(g.frame().restorer, LinuxGuest::kRestorer);
  EXPECT_EQ(g.info().si_signo, SIGUSR1);
  EXPECT_EQ(g.info().si_code, SI_TKILL);
  EXPECT_EQ(g.info().si_pid, g.process->pid);
  EXPECT_EQ(g.thread->signals.blocked, bit_of(SIGUSR1));

  g.sigreturn();
  EXPECT_EQ(g.regs()[Rsp], sp);
  EXPECT_EQ(g.regs()[Rip], pc);
  EXPECT_EQ(g.regs()[Rbx], 0xb0bu);
  EXPECT_EQ(g.regs()[Rax], 0u) << "what tgkill returned";
  EXPECT_EQ(g.thread->signals.blocked, 0u);
}

TEST(Signals, AHandlerMayChangeWhereAndWithWhatTheProgramGoesOn) {
  HandledGuest g;
  g.handle(SIGUSR1);
  g.raise(SIGUSR1);
  auto frame = g.frame();
  frame.context.rip = 0x404040;
  frame.context.r12 = 77;
  frame.mask = bit_of(SIGUSR2) | bit_of(SIGKILL);
  ASSERT_TRUE(write_user(g.memory(), g.regs()[Rsp], frame));
  g.sigreturn();
  EXPECT_EQ(g.regs()[Rip], 0x404040u);
  EXPECT_EQ(g.regs()[R12], 77u);
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
  EXPECT_EQ(taken, (std::vector<std::pair<int, int>>{{SIGUSR1, 0}, {rt, 0}, {rt, 1}, {rt, 2}, {rt + 1, 0}, {rt + 1, 1}, {rt + 1, 2}}));
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
  const mm::Gva first = g.regs()[Rsp];
  g.raise(SIGUSR2);
  EXPECT_EQ(g.regs()[Rsp], first) << "SIGUSR2 waits";
  g.regs()[Rsp] = first;
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
  const mm::Gva first = g.regs()[Rsp];
  EXPECT_GT(first, alternate.sp);
  EXPECT_LE(first, alternate.sp + alternate.size);
  EXPECT_EQ(g.frame().stack_sp, alternate.sp);
  ASSERT_TRUE(write_user(g.memory(), g.buffer, alternate));
  EXPECT_EQ(g.syscall(SYS_sigaltstack, {g.buffer, 0}), -EPERM) << "not while on it";
  EXPECT_EQ(g.syscall(SYS_sigaltstack, {0, g.buffer}), 0);
  EXPECT_EQ(g.get<int>(g.buffer + 8), SS_ONSTACK);
  g.raise(SIGUSR2);
  EXPECT_LT(g.regs()[Rsp], first) << "nested, further down the same stack";
  EXPECT_GT(g.regs()[Rsp], alternate.sp);
}

TEST(Signals, AFrameThatDoesNotFitEndsTheProgramWithSigsegv) {
  HandledGuest g;
  g.handle(SIGUSR1);
  g.regs()[Rsp] = 0x1000;  // nothing is mapped there
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
  } alternate{g.buffer + 0x100000, 0, 0, 2048};
  ASSERT_TRUE(write_user(g.memory(), g.buffer, alternate));
  ASSERT_EQ(g.syscall(SYS_sigaltstack, {g.buffer, 0}), 0);
  g.handle(SIGUSR1, SA_ONSTACK | SA_NODEFER);
  for (int i = 0; i < 4 && !g.process->ending(); ++i) g.raise(SIGUSR1);
  EXPECT_EQ(g.ending().code, SIGSEGV);
  EXPECT_EQ(g.bytes(alternate.sp - 4096, 4096), std::string(4096, '\0'));
}

TEST(Signals, AnActionWithoutARestorerCannotBeRun) {
  HandledGuest g;
  const std::array<std::uint64_t, 4> action{LinuxGuest::kHandler, SA_SIGINFO, 0, 0};
  ASSERT_TRUE(g.memory().write(g.buffer, std::as_bytes(std::span(action))));
  ASSERT_EQ(g.syscall(SYS_rt_sigaction, {SIGUSR1, g.buffer, 0, 8}), 0);
  g.raise(SIGUSR1);
  EXPECT_EQ(g.ending().code, SIGSEGV);
}

TEST(Signals, AFaultReachesItsHandlerWithAddressAndCause) {
  HandledGuest g;
  g.handle(SIGSEGV);
  send_fault(*g.thread, SIGSEGV, SEGV_ACCERR, 0x1234, 14, 7);
  deliver_signals(*g.thread, kNoResult);
  ASSERT_TRUE(g.in_handler());
  EXPECT_EQ(g.info().si_code, SEGV_ACCERR);
  EXPECT_EQ(g.info().si_addr, reinterpret_cast<void*>(0x1234));
  EXPECT_EQ(g.frame().context.trap, 14u);
  EXPECT_EQ(g.frame().context.error, 7u);
  EXPECT_EQ(g.frame().context.cr2, 0x1234u);
}

TEST(Signals, AFaultThatIsBlockedOrIgnoredIsFatal) {
  for (bool ignored : {false, true}) {
    HandledGuest g;
    g.handle(SIGSEGV, 0, 0, ignored ? 1 : LinuxGuest::kHandler);
    if (!ignored) g.mask(SIG_BLOCK, bit_of(SIGSEGV));
    send_fault(*g.thread, SIGSEGV, SEGV_MAPERR, 0x1234, 14, 4);
    deliver_signals(*g.thread, kNoResult);
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
    g.regs()[Rsp] = g.stack - 64;
    send_fault(*g.thread, SIGSEGV, SEGV_MAPERR, g.stack - 8, 14, 6);
    deliver_signals(*g.thread, kNoResult);
    EXPECT_NE(g.ending().message.find("stack overflow: the stack reached its limit"), std::string::npos) << g.ending().message;
  }
  HandledGuest g;
  g.regs()[Rip] = 0xdead;
  send_fault(*g.thread, SIGSEGV, SEGV_MAPERR, 0xdead, 14, 20);
  deliver_signals(*g.thread, kNoResult);
  EXPECT_NE(g.ending().message.find("jump to 0xdead (not mapped)"), std::string::npos) << g.ending().message;
}

TEST(Signals, ABadFrameAtReturnIsAFault) {
  HandledGuest g;
  g.regs()[Rsp] = 0x2000;
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
    UserRegs& r = g.regs();
    r[Rip] = LinuxGuest::kCode + kSyscallLength;
    r[Rax] = SYS_read;
    if (how > 0) send_to_thread(*g.process, g.process->pid, signal_from(*g.process, SIGUSR1, SI_USER));
    else g.thread->look_at_signals();  // interrupted for nothing that is left
    deliver_signals(*g.thread, p.code);
    const bool again = how == 0 ? p.without : how == 1 ? p.with : p.with_restart;
    std::uint64_t pc = g.regs()[Rip], rax = g.regs()[Rax];
    if (how > 0) {
      ASSERT_TRUE(g.in_handler());
      pc = g.frame().context.rip;
      rax = g.frame().context.rax;
    }
    EXPECT_EQ(pc, again ? LinuxGuest::kCode : LinuxGuest::kCode + 2) << "way " << how;
    std::uint64_t number = p.code == kRestartBlock && how == 0 ? SYS_restart_syscall : SYS_read;
    EXPECT_EQ(rax, again ? number : static_cast<std::uint64_t>(std::int64_t{-EINTR})) << "way " << how;
  }
}
INSTANTIATE_TEST_SUITE_P(EachCode, RestartTest,
                         ::testing::Values(Restart{kRestartSys, true, false, true}, Restart{kRestartNoIntr, true, true, true},
                                         Restart{kRestartNoHand, true, false, false}, Restart{kRestartBlock, true, false, false}));

TEST(Signals, ATemporaryMaskHoldsUntilTheHandlerHasRun) {
  HandledGuest g;
  g.handle(SIGUSR1);
  g.mask(SIG_BLOCK, bit_of(SIGUSR1) | bit_of(SIGUSR2));
  g.raise(SIGUSR1);
  const SignalSet none = 0;
  ASSERT_TRUE(write_user(g.memory(), g.buffer, none));
  g.syscall(SYS_rt_sigsuspend, {g.buffer, 8});
  ASSERT_TRUE(g.in_handler());
  EXPECT_EQ(static_cast<std::int64_t>(g.frame().context.rax), -EINTR);
  EXPECT_EQ(g.frame().mask, bit_of(SIGUSR1) | bit_of(SIGUSR2));
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
