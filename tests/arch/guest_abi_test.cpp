// What Linux is to programs of each instruction set, on any host.
#include "arch/guest_abi.hpp"

#include <elf.h>
#include <gtest/gtest.h>

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

TEST(GuestAbi, AnUnknownInstructionSetHasNone) {
  EXPECT_EQ(find_guest_abi(EM_386), nullptr);
  EXPECT_EQ(find_guest_abi(EM_NONE), nullptr);
  EXPECT_EQ(find_guest_abi(0x10000 | EM_X86_64), nullptr);
}

}  // namespace
}  // namespace ramet::arch
