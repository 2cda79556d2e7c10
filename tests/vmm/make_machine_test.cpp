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
  for (const Kind kind : {Kind::Auto, Kind::Kvm, Kind::Process}) {
    const auto made = make_machine({.kind = kind, .abi = &other});
    ASSERT_FALSE(made) << name_of({.kind = kind});
    EXPECT_NE(made.error().message.find(other.name), std::string::npos) << made.error().message;
  }
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
