// What Linux is to programs of each instruction set, on any host.
#include "arch/guest_abi.hpp"

#include <elf.h>
#include <gtest/gtest.h>

#include <set>

#include "arch/arm64/guest_abi.hpp"
#include "arch/x86_64/guest_abi.hpp"

namespace ramet::arch {
namespace {

class GuestAbiTest : public ::testing::TestWithParam<const GuestAbi*> {
 protected:
  const GuestAbi& abi = *GetParam();
};
INSTANTIATE_TEST_SUITE_P(Twins, GuestAbiTest, ::testing::Values(&x86_64::kGuestAbi, &arm64::kGuestAbi),
                         [](const auto& twin) { return std::string(twin.param->machine); });

TEST_P(GuestAbiTest, IsFoundByElfsNumber) { EXPECT_EQ(find_guest_abi(abi.elf_machine), &abi); }

TEST_P(GuestAbiTest, LaysProgramsOutWhereTheyMayBe) {
  EXPECT_EQ(abi.user_end % 4096, 0u);
  EXPECT_LT(abi.user_end, abi.processor_end);
  EXPECT_LT(abi.program_base + abi.program_spread, abi.user_end);
}

TEST_P(GuestAbiTest, NamesRegistersThatItHas) {
  std::set<unsigned> arguments(abi.reg.arguments.begin(), abi.reg.arguments.end());
  EXPECT_EQ(arguments.size(), 6u) << "each has its own";
  for (unsigned n : arguments) EXPECT_LT(n, abi.reg.count);
  const std::set<unsigned> others{abi.reg.pc, abi.reg.sp, abi.reg.flags, abi.reg.number};
  EXPECT_EQ(others.size(), 4u);
  for (unsigned n : others) {
    EXPECT_LT(n, abi.reg.count);
    EXPECT_FALSE(arguments.contains(n));
  }
  EXPECT_LE(abi.reg.count, UserRegs::kWords);
  EXPECT_TRUE(abi.bases >= 1 && abi.bases <= kMostBases);
}

TEST_P(GuestAbiTest, ACallIsReadFromRegistersAndMadeAgain) {
  UserRegs r = abi.initial_registers();
  EXPECT_EQ(r[abi.reg.flags], abi.fixed_flags);
  r[abi.reg.pc] = 0x1000;
  for (unsigned i = 0; i < 6; ++i) r[abi.reg.arguments[i]] = 100 + i;
  EXPECT_EQ(abi.arguments(r), (std::array<std::uint64_t, 6>{100, 101, 102, 103, 104, 105}));
  abi.repeat_call(r);
  EXPECT_EQ(r[abi.reg.pc], 0x1000u - abi.syscall_length);
}

TEST(GuestAbi, OnlyX86HasArchPrctl) {
  const auto fs = x86_64::kGuestAbi.arch_prctl(0x1002), gs = x86_64::kGuestAbi.arch_prctl(0x1004);
  ASSERT_TRUE(fs && gs);
  EXPECT_TRUE(fs->set && fs->base == 0 && !gs->set && gs->base == 1);
  EXPECT_FALSE(x86_64::kGuestAbi.arch_prctl(0x1012)) << "CPUID faulting";
  EXPECT_FALSE(arm64::kGuestAbi.arch_prctl(0x1002));
}

TEST(GuestAbi, ABaseIsWhatTheProcessorTakes) {
  EXPECT_TRUE(x86_64::kGuestAbi.is_base(0x7fff'ffff'ffff));
  EXPECT_FALSE(x86_64::kGuestAbi.is_base(0x8000'0000'0000));
  EXPECT_TRUE(arm64::kGuestAbi.is_base(0x8000'0000'0000));
}

TEST(GuestAbi, AnUnknownInstructionSetHasNone) {
  EXPECT_EQ(find_guest_abi(EM_386), nullptr);
  EXPECT_EQ(find_guest_abi(EM_NONE), nullptr);
  EXPECT_EQ(find_guest_abi(0x10000 | EM_X86_64), nullptr);
}

}  // namespace
}  // namespace ramet::arch
