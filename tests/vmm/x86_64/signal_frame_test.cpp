// Signal frames: their place, and what a hostile program may put into one.
#include <gtest/gtest.h>
#include <signal.h>
#include <ucontext.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "arch/x86_64/fault_signal.hpp"
#include "arch/x86_64/guest_abi.hpp"
#include "arch/x86_64/signal_frame.hpp"

namespace ramet::arch::x86_64 {
namespace {

constexpr std::uint32_t kXsave = 832;  // x87, SSE and AVX
constexpr std::uint64_t kXcr0 = 7;

template <class T>
T get(const FpState& fp, std::size_t at) {
  T v;
  std::memcpy(&v, fp.area.data() + at, sizeof v);
  return v;
}
template <class T>
void put(FpState& fp, std::size_t at, T v) {
  std::memcpy(fp.area.data() + at, &v, sizeof v);
}

TEST(SignalFrame, IsLaidOutAsTheLibrariesOfTheHostExpect) {
  constexpr std::size_t kContext = offsetof(SignalFrame, uc_flags);
  EXPECT_EQ(offsetof(SignalFrame, stack_sp) - kContext, offsetof(ucontext_t, uc_stack));
  EXPECT_EQ(offsetof(SignalFrame, context) - kContext, offsetof(ucontext_t, uc_mcontext));
  EXPECT_EQ(offsetof(SignalFrame, mask) - kContext, offsetof(ucontext_t, uc_sigmask));
  auto at = [](int greg) { return offsetof(mcontext_t, gregs) + sizeof(greg_t) * static_cast<std::size_t>(greg); };
  EXPECT_EQ(offsetof(SignalContext, rdi), at(REG_RDI));
  EXPECT_EQ(offsetof(SignalContext, rsp), at(REG_RSP));
  EXPECT_EQ(offsetof(SignalContext, rip), at(REG_RIP));
  EXPECT_EQ(offsetof(SignalContext, rflags), at(REG_EFL));
  EXPECT_EQ(offsetof(SignalContext, cs), at(REG_CSGSFS));
  EXPECT_EQ(offsetof(SignalContext, trap), at(REG_TRAPNO));
  EXPECT_EQ(offsetof(SignalContext, cr2), at(REG_CR2));
  EXPECT_EQ(offsetof(SignalContext, fpstate), offsetof(mcontext_t, fpregs));
}

TEST(SignalFrame, IsAlignedAndBelowTheStackPointerWhereverThatIs) {
  std::mt19937_64 random(7);
  for (std::uint32_t xsave : {0u, 576u, kXsave, 2696u}) {
    for (unsigned i = 0; i < 1000; ++i) {
      const std::uint64_t sp = 0x7fff'0000'0000 + random() % 100000;
      FramePlace place = place_frame(sp, xsave);
      EXPECT_EQ(place.fp % 64, 0u);
      EXPECT_EQ((place.frame + 8) % 16, 0u);
      EXPECT_LE(place.fp + frame_fp_bytes(xsave), sp);
      EXPECT_LE(place.frame + sizeof(SignalFrame), place.fp);
      EXPECT_LE(sp + kRedZone - place.frame, max_frame_bytes(xsave));
    }
  }
}

TEST(SignalFrame, RegistersComeBackAsTheyWentIn) {
  UserRegs r;
  std::uint64_t n = 0x1111;
  for (auto* reg : {&r[Rax], &r[Rbx], &r[Rcx], &r[Rdx], &r[Rsi], &r[Rdi], &r[Rsp], &r[Rbp], &r[R8], &r[R9], &r[R10],
                    &r[R11], &r[R12], &r[R13], &r[R14], &r[R15], &r[Rip]})
    *reg = n += 0x1111;
  r[Rflags] = 0x246;
  UserRegs back = restore_registers(save_registers(r));
  EXPECT_EQ(std::memcmp(&back, &r, sizeof r), 0);
}

TEST(SignalFrame, ReturningCannotRaiseThePrivilegeOfTheFlags) {
  SignalContext c{};
  c.rflags = ~0ull;
  const std::uint64_t flags = restore_registers(c)[Rflags];
  EXPECT_EQ(flags & 0x3000, 0u) << "I/O privilege level";
  EXPECT_EQ(flags & 0x4000, 0u) << "nested task";
  EXPECT_EQ(flags & 0x20000, 0u) << "virtual-8086 mode";
  EXPECT_EQ(flags & 0x180000, 0u) << "virtual interrupts";
  c.rflags = 0;
  EXPECT_EQ(restore_registers(c)[Rflags], 0x202u) << "interrupts stay enabled";
}

TEST(SignalFrame, TheFloatingPointPartIsDescribedAndComesBack) {
  FpState fp;
  put<std::uint64_t>(fp, 512, 7);
  put<std::uint64_t>(fp, 576, 0xfeed);  // upper half of YMM0
  auto bytes = describe_fp(fp, kXsave, kXcr0);
  EXPECT_EQ(bytes.size(), kXsave + 4);
  EXPECT_EQ(get<std::uint32_t>(fp, 464), 0x46505853u);
  EXPECT_EQ(get<std::uint32_t>(fp, 468), kXsave + 4);
  EXPECT_EQ(get<std::uint64_t>(fp, 472), kXcr0);
  EXPECT_EQ(get<std::uint32_t>(fp, kXsave), 0x46505845u);
  sanitize_fp(fp, kXsave, kXcr0, 0xffff);
  EXPECT_EQ(get<std::uint64_t>(fp, 512), 7u);
  EXPECT_EQ(get<std::uint64_t>(fp, 576), 0xfeedu);
}

TEST(SignalFrame, AHostileFloatingPointPartIsMadeAcceptable) {
  std::mt19937_64 random(11);
  for (unsigned round = 0; round < 1000; ++round) {
    FpState fp;
    for (std::size_t at = 0; at < fp.area.size(); at += 8) put<std::uint64_t>(fp, at, random());
    if (round % 2) {  // half of them look right
      put<std::uint32_t>(fp, 464, 0x46505853);
      put<std::uint32_t>(fp, 468, kXsave + 4);
      put<std::uint32_t>(fp, 480, kXsave);
      put<std::uint32_t>(fp, kXsave, 0x46505845);
    }
    sanitize_fp(fp, kXsave, kXcr0, 0xffff);
    EXPECT_EQ(get<std::uint64_t>(fp, 512) & ~kXcr0, 0u);
    for (std::size_t at = 520; at < 576; at += 8) EXPECT_EQ(get<std::uint64_t>(fp, at), 0u);
    EXPECT_EQ(get<std::uint32_t>(fp, 24) & ~0xffffu, 0u);
  }
}

TEST(SignalFrame, WithoutTheClosingMagicOnlyTheLegacyPartCounts) {
  FpState fp;
  put<std::uint64_t>(fp, 512, 7);
  describe_fp(fp, kXsave, kXcr0);
  put<std::uint32_t>(fp, kXsave, 0);
  sanitize_fp(fp, kXsave, kXcr0, 0);
  EXPECT_EQ(get<std::uint64_t>(fp, 512), 3u);
}

TEST(SignalFrame, WhatAHandlerInterruptedGoesOnWhenItReturns) {
  constexpr std::uint64_t kBase = 0x10000;
  std::array<std::byte, 0x4000> memory{};
  const auto there = [&](std::uint64_t at, std::size_t bytes) {
    return at >= kBase && at - kBase <= memory.size() && bytes <= memory.size() - (at - kBase);
  };
  const WriteMemory write = [&](std::uint64_t at, std::span<const std::byte> bytes) {
    return there(at, bytes.size()) &&
           std::ranges::copy(bytes, memory.begin() + static_cast<std::ptrdiff_t>(at - kBase)).out != nullptr;
  };
  const ReadMemory read = [&](std::uint64_t at, std::span<std::byte> out) {
    if (there(at, out.size())) std::memcpy(out.data(), memory.data() + (at - kBase), out.size());
    return there(at, out.size());
  };
  const FpFormat format{.components = kXcr0, .bytes = kXsave};
  const GuestAbi& abi = kGuestAbi;
  siginfo_t info{};
  info.si_signo = SIGUSR1;
  Handling handling{.signal = SIGUSR1,
                    .info = std::as_bytes(std::span<const siginfo_t, 1>(&info, 1)),
                    .handler = 0x40,
                    .restorer = 0x50,
                    .mask = 0xf00,
                    .stack = {.sp = 1, .size = 2, .flags = 3},
                    .fault = {14, 7, 0x1234}};
  UserRegs before = abi.initial_registers();
  for (unsigned i = 0; i < Rflags; ++i) before[i] = 100 + i;
  before[Rflags] |= kTrapFlag;
  UserRegs regs = before;
  FpState fp, kept;
  reset(fp);
  put<std::uint64_t>(fp, 160, 0xabcd);  // XMM0
  kept = fp;

  handling.restorer.reset();
  EXPECT_FALSE(abi.enter_handler(handling, kBase + 0x3000, format, regs, fp, write));
  handling.restorer = 0x50;
  EXPECT_FALSE(abi.enter_handler(handling, kBase + 64, format, regs, fp, write)) << "no room there";
  EXPECT_EQ(regs.word, before.word);
  ASSERT_TRUE(abi.enter_handler(handling, kBase + 0x3000, format, regs, fp, write));
  EXPECT_EQ(regs[Rsp], abi.frame_place(kBase + 0x3000, format));
  EXPECT_EQ(regs[Rip], 0x40u);
  EXPECT_EQ(regs[Rdi], static_cast<std::uint64_t>(SIGUSR1));
  EXPECT_EQ(regs[Rflags] & kTrapFlag, 0u);

  regs[Rsp] += 8;  // its RET
  reset(fp);
  const auto back = abi.leave_handler(regs, format, fp, read);
  ASSERT_TRUE(back);
  EXPECT_EQ(back->regs.word, before.word);
  EXPECT_EQ(back->mask, 0xf00u);
  EXPECT_TRUE(back->stack.sp == 1 && back->stack.size == 2 && back->stack.flags == 3);
  EXPECT_EQ(get<std::uint64_t>(fp, 160), 0xabcdu);
  EXPECT_EQ(get<std::uint64_t>(fp, 512), get<std::uint64_t>(kept, 512));
  regs[Rsp] = 0;
  EXPECT_FALSE(abi.leave_handler(regs, format, fp, read));
}

TEST(FaultSignal, ExceptionsBecomeTheSignalsOfLinux) {
  auto is = [](std::uint8_t vector, int sig, int code, bool at_pc) {
    FaultSignal s = fault_signal(vector, nullptr);
    return s.signal == sig && s.code == code && s.at_pc == at_pc;
  };
  EXPECT_TRUE(is(0, SIGFPE, FPE_INTDIV, true));
  EXPECT_TRUE(is(1, SIGTRAP, TRAP_TRACE, true));
  EXPECT_TRUE(is(3, SIGTRAP, SI_KERNEL, false));
  EXPECT_TRUE(is(6, SIGILL, ILL_ILLOPN, true));
  EXPECT_TRUE(is(13, SIGSEGV, SI_KERNEL, false));
  EXPECT_TRUE(is(17, SIGBUS, BUS_ADRALN, false));
}

TEST(FaultSignal, FloatingPointExceptionsSayWhichWasUnmasked) {
  FpState fp;
  put<std::uint32_t>(fp, 24, 0x1f80u & ~0x200u);                // divide by zero unmasked
  put<std::uint32_t>(fp, 24, get<std::uint32_t>(fp, 24) | 0x24u);  // divide and precision happened
  EXPECT_EQ(fault_signal(19, &fp).code, FPE_FLTDIV);
  put<std::uint16_t>(fp, 0, 0x37f & ~1);  // x87: invalid unmasked
  put<std::uint16_t>(fp, 2, 0x05);        // invalid and divide happened
  EXPECT_EQ(fault_signal(16, &fp).code, FPE_FLTINV);
}

}  // namespace
}  // namespace ramet::arch::x86_64
