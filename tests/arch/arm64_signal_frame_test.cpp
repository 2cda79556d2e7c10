// Signal frames of arm64: their place, what Linux puts into one, and what a hostile program may.
#include "arch/arm64/signal_frame.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#if __has_include(<asm/sve_context.h>)  // the headers are arm64's own
#include <sys/user.h>
#include <ucontext.h>

#define ARM64_HEADERS
#endif

#include <algorithm>
#include <array>
#include <cstring>
#include <random>

#include "arch/arm64/guest_abi.hpp"
#include "arch/arm64/vdso.hpp"

namespace ramet::arch::arm64 {
namespace {

constexpr std::uint64_t kBase = 0x10000, kSp = kBase + 0x8000;

class Arm64SignalFrame : public ::testing::Test {
 protected:
  Arm64SignalFrame() {
    for (unsigned i = 0; i < Pstate; ++i) before[i] = 100 + i;
    before[Sp] = kSp;
    before[Pstate] = pstate::kConditions & 0x90000000;
    for (std::size_t i = 0; i < sizeof(FpSimd); ++i) fp.area[i] = static_cast<std::byte>(i * 7);
    info_of_signal.si_signo = SIGUSR1;
  }
  Handling handling() const {
    return {.signal = SIGUSR1,
            .info = std::as_bytes(std::span<const siginfo_t, 1>(&info_of_signal, 1)),
            .handler = 0x40,
            .restorer = {},
            .vdso = 0x7000'0000,
            .mask = 0xf00,
            .stack = {.sp = 1, .size = 2, .flags = 3},
            .fault = {.trap = 0x24, .error = 0x92000046, .address = 0x1234}};
  }
  bool enter(const Handling& h, std::uint64_t sp = kSp) { return abi.enter_handler(h, sp, kFpFormat, regs, fp, write); }
  std::optional<Returned> leave() { return abi.leave_handler(regs, kFpFormat, fp, read); }

  bool there(std::uint64_t at, std::size_t bytes) const {
    return at >= kBase && at - kBase <= memory.size() && bytes <= memory.size() - (at - kBase);
  }
  template <class T>
  T get(std::uint64_t at) {
    T value{};
    EXPECT_TRUE(read(at, std::as_writable_bytes(std::span(&value, 1)))) << std::hex << at;
    return value;
  }
  template <class T>
  void put(std::uint64_t at, const T& value) {
    EXPECT_TRUE(write(at, std::as_bytes(std::span(&value, 1)))) << std::hex << at;
  }
  // The frame that regs[Sp] is at, and its records.
  std::uint64_t records() const { return regs[Sp] + 128 + 176 + 288; }
  void put_record(std::uint64_t& at, std::uint32_t magic, std::uint32_t size) {
    put(at, RecordHead{magic, size});
    at += size;
  }

  const GuestAbi& abi = kGuestAbi;
  std::array<std::byte, 0x20000> memory{};
  const WriteMemory write = [this](std::uint64_t at, std::span<const std::byte> bytes) {
    if (there(at, bytes.size())) std::memcpy(memory.data() + (at - kBase), bytes.data(), bytes.size());
    return there(at, bytes.size());
  };
  const ReadMemory read = [this](std::uint64_t at, std::span<std::byte> out) {
    if (there(at, out.size())) std::memcpy(out.data(), memory.data() + (at - kBase), out.size());
    return there(at, out.size());
  };
  siginfo_t info_of_signal{};
  UserRegs before, regs;
  FpState fp;

  void SetUp() override { regs = before; }
};

#ifdef ARM64_HEADERS
TEST_F(Arm64SignalFrame, IsLaidOutAsTheHeadersOfLinuxSay) {
  constexpr std::size_t kContext = offsetof(SignalFrame, uc_flags);
  EXPECT_EQ(sizeof(SignalFrame) - kContext, sizeof(ucontext_t));
  EXPECT_EQ(offsetof(SignalFrame, stack_sp) - kContext, offsetof(ucontext_t, uc_stack));
  EXPECT_EQ(offsetof(SignalFrame, mask) - kContext, offsetof(ucontext_t, uc_sigmask));
  EXPECT_EQ(offsetof(SignalFrame, context) - kContext, offsetof(ucontext_t, uc_mcontext));
  EXPECT_EQ(sizeof(SignalContext), sizeof(struct sigcontext));
  const auto reg = [](unsigned n) { return offsetof(SignalContext, regs) + 8 * n; };
  EXPECT_EQ(reg(X0), offsetof(struct sigcontext, regs));
  EXPECT_EQ(reg(Sp), offsetof(struct sigcontext, sp));
  EXPECT_EQ(reg(Pc), offsetof(struct sigcontext, pc));
  EXPECT_EQ(reg(Pstate), offsetof(struct sigcontext, pstate));
  EXPECT_EQ(offsetof(SignalContext, records), offsetof(struct sigcontext, __reserved));
  EXPECT_EQ(sizeof(FpRecord), sizeof(fpsimd_context));
  EXPECT_EQ(offsetof(FpRecord, fpcr), offsetof(fpsimd_context, fpcr));
  EXPECT_EQ(offsetof(FpRecord, v), offsetof(fpsimd_context, vregs));
  EXPECT_EQ(sizeof(ExtraRecord), sizeof(extra_context));
  EXPECT_EQ(offsetof(ExtraRecord, bytes), offsetof(extra_context, size));
  EXPECT_TRUE(FpRecord::kMagic == FPSIMD_MAGIC && EsrRecord::kMagic == ESR_MAGIC && ExtraRecord::kMagic == EXTRA_MAGIC);
  EXPECT_EQ(sizeof(FpSimd), sizeof(user_fpsimd_struct));
}
#endif

TEST_F(Arm64SignalFrame, IsAlignedAndBelowTheStackPointerWhereverThatIs) {
  std::mt19937_64 random(7);
  for (unsigned i = 0; i < 1000; ++i) {
    const std::uint64_t sp = 0x7f'0000'0000 + random() % 100000;
    const FramePlace place = place_frame(sp);
    EXPECT_EQ(place.frame % 16, 0u);
    EXPECT_LE(place.frame + sizeof(SignalFrame), place.record);
    EXPECT_LE(place.record + sizeof(FrameRecord), sp);
    EXPECT_LE(sp - place.frame, abi.max_frame_bytes(kFpFormat));
    EXPECT_EQ(abi.frame_place(sp, kFpFormat), place.frame);
  }
  EXPECT_EQ(abi.max_frame_bytes(kFpFormat), 4720u) << "AT_MINSIGSTKSZ of Linux on a processor without SVE";
}

TEST_F(Arm64SignalFrame, AHandlerFindsWhatLinuxGivesIt) {
  ASSERT_TRUE(enter(handling()));
  const std::uint64_t frame = abi.frame_place(kSp, kFpFormat);
  EXPECT_EQ(regs[X0], static_cast<std::uint64_t>(SIGUSR1));
  EXPECT_EQ(regs[X0 + 1], frame);
  EXPECT_EQ(regs[X0 + 2], frame + 128);
  for (unsigned n = 3; n < Fp; ++n) EXPECT_EQ(regs[n], before[n]) << n;
  EXPECT_EQ(regs[Sp], frame);
  EXPECT_EQ(regs[Pc], 0x40u);
  EXPECT_EQ(regs[Lr], 0x7000'0000 + vdso_rt_sigreturn());
  EXPECT_EQ(regs[Pstate], before[Pstate]);
  const auto record = get<FrameRecord>(regs[Fp]);
  EXPECT_EQ(record.fp, before[Fp]);
  EXPECT_EQ(record.lr, before[Lr]);

  EXPECT_EQ(get<int>(frame), SIGUSR1);
  EXPECT_EQ(get<std::uint64_t>(frame + 128 + 40), 0xf00u) << "the mask";
  const std::uint64_t context = frame + 128 + 176;
  EXPECT_EQ(get<std::uint64_t>(context), 0x1234u) << "fault_address";
  EXPECT_EQ(get<UserRegs>(context + 8).word, before.word);
  EXPECT_EQ(get<RecordHead>(records()).magic, 0x46508001u);
  EXPECT_EQ(std::memcmp(memory.data() + (records() + 16 - kBase), fp.area.data(), 512), 0);
  const auto esr = get<EsrRecord>(records() + 528);
  EXPECT_TRUE(esr.head.magic == 0x45535201 && esr.head.size == 16 && esr.esr == 0x92000046);
  const auto end = get<RecordHead>(records() + 528 + 16);
  EXPECT_TRUE(end.magic == 0 && end.size == 0);
}

TEST_F(Arm64SignalFrame, WithoutAnExceptionThereIsNoRecordOfOne) {
  Handling h = handling();
  h.fault = {};
  ASSERT_TRUE(enter(h));
  EXPECT_EQ(get<RecordHead>(records() + 528).magic, 0u);
}

TEST_F(Arm64SignalFrame, WhoDoesNotAskForSiginfoGetsNone) {
  memory.fill(std::byte{0x55});
  Handling h = handling();
  h.wants_info = false;
  ASSERT_TRUE(enter(h));
  EXPECT_EQ(regs[X0 + 1], before[X0 + 1]);
  EXPECT_EQ(regs[X0 + 2], before[X0 + 2]);
  EXPECT_EQ(get<std::uint32_t>(regs[Sp]), 0x55555555u);
  EXPECT_EQ(get<std::uint32_t>(records() + 4092), 0x55555555u) << "nor are bytes written that no record has";
}

TEST_F(Arm64SignalFrame, AProgramMaySayWhereTheHandlerReturnsTo) {
  Handling h = handling();
  h.restorer = 0x50;
  ASSERT_TRUE(enter(h));
  EXPECT_EQ(regs[Lr], 0x50u);
}

TEST_F(Arm64SignalFrame, HowTheHandlerWasReachedIsNotABranchOfTheProgram) {
  regs[Pstate] |= pstate::kBranchType | pstate::kTagCheckOverride;
  before = regs;
  ASSERT_TRUE(enter(handling()));
  EXPECT_EQ(regs[Pstate] & (pstate::kBranchType | pstate::kTagCheckOverride), 0u);
  const auto back = leave();
  ASSERT_TRUE(back);
  EXPECT_EQ(back->regs[Pstate], before[Pstate]);
}

TEST_F(Arm64SignalFrame, AStackWithoutRoomChangesNothing) {
  EXPECT_FALSE(enter(handling(), kBase + 0x1000));
  EXPECT_FALSE(enter(handling(), 64));
  EXPECT_EQ(regs.word, before.word);
}

TEST_F(Arm64SignalFrame, WhatAHandlerInterruptedGoesOnWhenItReturns) {
  const FpState kept = fp;
  ASSERT_TRUE(enter(handling()));
  reset(fp);
  const auto back = leave();
  ASSERT_TRUE(back);
  EXPECT_EQ(back->regs.word, before.word);
  EXPECT_EQ(back->mask, 0xf00u);
  EXPECT_TRUE(back->stack.sp == 1 && back->stack.size == 2 && back->stack.flags == 3);
  EXPECT_EQ(std::memcmp(fp.area.data(), kept.area.data(), 520), 0) << "all but what is reserved";
}

TEST_F(Arm64SignalFrame, ReturningCannotRaiseThePrivilege) {
  ASSERT_TRUE(enter(handling()));
  const std::uint64_t at = regs[Sp] + 128 + 176 + 8 + 8 * Pstate;
  for (unsigned bit : {0u, 2u, 3u, 4u, 6u, 7u, 8u, 9u}) {
    put(at, std::uint64_t{1} << bit);
    EXPECT_FALSE(leave()) << "bit " << bit;
  }
  put(at, ~std::uint64_t{0x3df});
  const auto back = leave();
  ASSERT_TRUE(back);
  EXPECT_EQ(back->regs[Pstate], 0xf3001c00u) << "neither single steps nor what only the kernel sets";
  EXPECT_EQ(back->regs[Pstate] & kStepFlag, 0u);
}

TEST_F(Arm64SignalFrame, AStackPointerThatIsNotAlignedHasNoFrame) {
  ASSERT_TRUE(enter(handling()));
  regs[Sp] += 8;
  EXPECT_FALSE(leave());
  regs[Sp] = 0;
  EXPECT_FALSE(leave());
}

TEST_F(Arm64SignalFrame, RecordsAreThoseThatLinuxTakesWithoutSve) {
  ASSERT_TRUE(enter(handling()));
  const auto start = records();
  const auto refused = [&](const char* why, auto change) {
    const auto saved = memory;
    change();
    EXPECT_FALSE(leave()) << why;
    memory = saved;
    EXPECT_TRUE(leave()) << why;
  };
  refused("an unknown magic number", [&] { put(start + 528, RecordHead{0x1234, 16}); });
  refused("SVE", [&] { put(start + 528, RecordHead{0x53564501, 16}); });
  refused("no floating-point state", [&] { put(start, RecordHead{EsrRecord::kMagic, 528}); });
  refused("two of them", [&] {
    put(start + 528, RecordHead{FpRecord::kMagic, 528});
    put(start + 2 * 528, EndRecord{});
  });
  refused("a larger one", [&] { put(start, RecordHead{FpRecord::kMagic, 544}); });
  refused("a smaller one", [&] { put(start, RecordHead{FpRecord::kMagic, 512}); });
  refused("not aligned", [&] { put(start + 528, RecordHead{EsrRecord::kMagic, 24}); });
  refused("smaller than its own head", [&] { put(start + 528, RecordHead{EsrRecord::kMagic, 0}); });
  refused("beyond the frame", [&] { put(start + 528, RecordHead{EsrRecord::kMagic, 4096}); });
  refused("no end", [&] { put(start + 528, RecordHead{EsrRecord::kMagic, 4096 - 528}); });
  refused("an end with a size", [&] { put(start + 544, RecordHead{0, 16}); });
}

TEST_F(Arm64SignalFrame, RecordsMayGoOnAfterTheFrame) {
  ASSERT_TRUE(enter(handling()));
  const auto start = records(), extra = start + 528, data = extra + 32 + 16;
  put(extra, ExtraRecord{.head = {ExtraRecord::kMagic, 32}, .data = data, .bytes = 64, .reserved = {}});
  put(extra + 32, EndRecord{});
  put(data, EsrRecord{.head = {EsrRecord::kMagic, 16}, .esr = 0});
  put(data + 16, EndRecord{});
  EXPECT_TRUE(leave());
  const auto refused = [&](const char* why, auto change) {
    const auto saved = memory;
    change();
    EXPECT_FALSE(leave()) << why;
    memory = saved;
  };
  refused("not there", [&] { put(extra + 8, data + 16); });
  refused("too large", [&] { put(extra + 16, std::uint32_t{256 * 1024}); });
  refused("an odd size", [&] { put(extra + 16, std::uint32_t{40}); });
  refused("the list goes on here, too", [&] { put(extra + 32, RecordHead{EsrRecord::kMagic, 16}); });
  refused("twice", [&] {
    put(data, ExtraRecord{.head = {ExtraRecord::kMagic, 32}, .data = data + 48, .bytes = 16, .reserved = {}});
  });
  refused("no end", [&] { put(extra + 16, std::uint32_t{16}); });
  refused("a small record", [&] { put(extra, RecordHead{ExtraRecord::kMagic, 16}); });
}

TEST_F(Arm64SignalFrame, NoFrameOfRandomRecordsIsReadForEverOrBeyondTheMemory) {
  ASSERT_TRUE(enter(handling()));
  std::mt19937_64 random(11);
  const std::uint32_t magics[] = {0, EsrRecord::kMagic, EsrRecord::kMagic, FpRecord::kMagic, ExtraRecord::kMagic, 0x77};
  for (unsigned round = 0; round < 20000; ++round) {
    std::uint64_t at = records();
    for (unsigned i = 0; i < 8 && there(at, 64); ++i) {
      const auto size = static_cast<std::uint32_t>(random() % 4 == 0 ? random() : random() % 64 * 16);
      put(at, RecordHead{magics[random() % std::size(magics)], size});
      put(at + 8, std::uint64_t{at + size + 16});
      at += size;
    }
    if (const auto back = leave()) {
      EXPECT_EQ(back->regs[Pstate] & pstate::kMode, 0u);
    }
  }
}

}  // namespace
}  // namespace ramet::arch::arm64
