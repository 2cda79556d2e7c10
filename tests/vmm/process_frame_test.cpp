// What a guest's process says of a trap, which it may have made up: whatever numbers it says, the VMM reads and writes
// nothing but that process's signal stack.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <array>
#include <random>
#include <span>

#include "arch/process_frame.hpp"
#include "said_frame.hpp"  // this host's
#include "tests/scaled.hpp"
#include "tests/vmm/said_area.hpp"

namespace ramet::vmm::process {
namespace {

TEST(ProcessFrame, OfWhatIsSaidOnlyWhatLiesOnTheSignalStackIsUsed) {
  const std::uint64_t seed = std::random_device()();
  Draws n{std::mt19937_64(seed)};
  const Said said;
  const unsigned rounds = test::scaled(300'000, 30'000);
  unsigned found = 0, refused = 0;
  for (unsigned i = 0; i < rounds; ++i) {
    const SaidFrame says = SaidFrame::say(n, said);
    const bool truth = says.usable();
    const auto frame = arch::find_host_frame(said.bytes(), kSaidBase);
    ASSERT_EQ(frame.has_value(), truth) << "seed " << seed << ", " << says.words();
    ++(truth ? found : refused);
    if (!frame) continue;
    // Beyond the area there is nothing that can be touched, and in its first page nothing that may change.
    std::array<std::byte, RAMET_SIGNAL_STACK> before;
    std::ranges::copy(said.bytes().first(before.size()), before.begin());
    (void)arch::read_host_trap(said.bytes(), *frame, SIGSTKFLT);
    const auto regs = arch::read_host_registers(said.bytes(), *frame);
    arch::FpState state;
    arch::read_host_fp(said.bytes(), *frame, state);
    arch::write_host_fp(said.bytes(), *frame, state);
    arch::write_host_registers(said.bytes(), *frame, regs, kSaidBase);
    ASSERT_TRUE(std::ranges::equal(said.bytes().first(before.size()), before)) << "seed " << seed;
  }
  EXPECT_GT(found, rounds / 300);
  EXPECT_GT(refused, rounds / 3);
}

}  // namespace
}  // namespace ramet::vmm::process
