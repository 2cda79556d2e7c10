// Counters of an address space.
#include "guest-mm/counters.hpp"

#include <gtest/gtest.h>

#include <deque>

namespace ramet::mm::test {
namespace {

TEST(Counters, A_counter_for_which_a_line_has_no_place_ends_the_program) {
  FaultLines lines;
  std::deque<FaultCounter> counters;
  for (unsigned i = 0; i < 32; ++i) counters.emplace_back(lines).add(i);
  for (unsigned i = 0; i < 32; ++i) EXPECT_EQ(counters[i], i);
  EXPECT_DEATH(counters.emplace_back(lines), "more than 32 FaultCounters");
}

}  // namespace
}  // namespace ramet::mm::test
