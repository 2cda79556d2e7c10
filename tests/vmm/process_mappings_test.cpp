// The process machine at the host's limit of mappings (vm.max_map_count), which the test makes low, or takes to be
// higher than it is: all mappings go and come again, and a program that copies pages all over a large heap finds in
// each what was written there. Its own checks are those of tests/guests/scattered.c.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <string>

#include "vmm/run.hpp"

namespace ramet::vmm {
namespace {

class ProcessMappings : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* guests = std::getenv("GUESTS");
    program = std::string(guests ? guests : "guests") + "/scattered";
    if (::access(program.c_str(), X_OK) != 0) GTEST_SKIP() << "no guest " << program;
  }
  Machine::Totals run_scattered(unsigned mebibytes, unsigned stride, std::size_t most_mappings) {
    auto shell = Shell::create(std::uint64_t{mebibytes} << 22, {},
                               {.kind = MachineChoice::Kind::Process, .most_mappings = most_mappings});
    EXPECT_TRUE(shell) << shell.error().message;
    if (!shell) return {};
    RunOptions options;
    options.program = program, options.arguments = {std::to_string(mebibytes), std::to_string(stride)};
    options.standard = {-1, -1, 2};
    const auto report = run(**shell, options);
    EXPECT_TRUE(report) << report.error().message;
    if (!report) return {};
    EXPECT_EQ(report->ending.kind, Ending::Kind::Exited);
    EXPECT_EQ(report->ending.code, 0);
    return report->exits;
  }
  std::string program;
};

TEST_F(ProcessMappings, Few_are_used_again_and_again) {
  const Machine::Totals totals = run_scattered(32, 4, 1200);
  EXPECT_GE(totals.evictions, 10u);
  EXPECT_LE(totals.mappings, 2 * 1200u);  // of both processes
}

TEST_F(ProcessMappings, Those_that_the_host_refuses_come_later) {
#if defined(RAMET_SANITIZED)
  GTEST_SKIP() << "half a minute with sanitizers, which have what is done then in MirrorStorm's tests as well";
#endif
  std::size_t most = 0;
  std::ifstream("/proc/sys/vm/max_map_count") >> most;
  if (most > 65530) GTEST_SKIP() << "this host allows a process " << most << " mappings: too many to use up";
  const Machine::Totals totals = run_scattered(399, 3, 1'000'000);
  EXPECT_GE(totals.evictions, 2u);  // in each of the processes
}

}  // namespace
}  // namespace ramet::vmm
