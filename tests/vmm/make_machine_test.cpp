// Which machine is made for what is asked.
#include "vmm/make_machine.hpp"

#include <gtest/gtest.h>

#include "arch/arm64/guest_abi.hpp"
#include "arch/host_processor.hpp"
#include "arch/x86_64/guest_abi.hpp"

namespace ramet::vmm {
namespace {

using Kind = MachineChoice::Kind;

TEST(MakeMachine, RunsProgramsOfTheHostsInstructionSetOnly) {
  const arch::GuestAbi& own = arch::host_abi();
  const arch::GuestAbi& other = &own == &arch::x86_64::kGuestAbi ? arch::arm64::kGuestAbi : arch::x86_64::kGuestAbi;
  for (const Kind kind : {Kind::Auto, Kind::Kvm, Kind::Process, Kind::Soft}) {
    const auto made = make_machine({.kind = kind, .abi = &other});
    ASSERT_FALSE(made) << name_of({.kind = kind});
    EXPECT_NE(made.error().message.find(other.name), std::string::npos) << made.error().message;
  }
}

// The software CPU is of programs that are linked with its engines, which this one is not: tests/soft has others.
TEST(MakeMachine, TheSoftwareCpuTakesWhatNoOtherMachineOfTheHostRuns) {
  EXPECT_TRUE(needs_soft_engines({.kind = Kind::Soft}));
  EXPECT_TRUE(needs_soft_engines({.abi = &arch::arm64::kGuestAbi}));
  EXPECT_FALSE(needs_soft_engines({}));
  EXPECT_FALSE(needs_soft_engines({.abi = &arch::x86_64::kGuestAbi}));
  EXPECT_FALSE(needs_soft_engines({.kind = Kind::Process, .abi = &arch::arm64::kGuestAbi}));
  EXPECT_FALSE(needs_soft_engines({.kind = Kind::Soft, .abi = &arch::x86_64::kGuestAbi}));
}

// The family's other machines are made by what the first one turned out to be.
TEST(MakeMachine, SaysWhatWasMade) {
  for (const arch::GuestAbi* asked : {static_cast<const arch::GuestAbi*>(nullptr), &arch::host_abi()}) {
    for (const Kind kind : {Kind::Auto, Kind::Process}) {
      const auto made = make_machine({.kind = kind, .abi = asked});
      ASSERT_TRUE(made) << made.error().message;
      EXPECT_NE(made->choice.kind, Kind::Auto);
      EXPECT_EQ(made->choice.abi, &arch::host_abi());
      EXPECT_EQ(&made->machine->abi(), made->choice.abi);
    }
  }
}

}  // namespace
}  // namespace ramet::vmm
