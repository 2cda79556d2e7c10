// Policies and priorities: scheduling.hpp.
#include "vmm/linux/processes/scheduling.hpp"

#include <gtest/gtest.h>

#include <cerrno>

namespace ramet::vmm {
namespace {

unsigned io(unsigned of, unsigned level) { return of << 13 | level; }

TEST(Scheduling, OnlyRealTimePoliciesHaveAPriority) {
  for (const int policy : {SCHED_OTHER, SCHED_BATCH, SCHED_IDLE}) {
    EXPECT_TRUE(possible({.policy = policy})) << policy;
    EXPECT_FALSE(possible({.policy = policy, .priority = 1})) << policy;
  }
  for (const int policy : {SCHED_FIFO, SCHED_RR}) {
    for (const int priority : {1, 99}) EXPECT_TRUE(possible({.policy = policy, .priority = priority}));
    for (const int priority : {-1, 0, 100}) EXPECT_FALSE(possible({.policy = policy, .priority = priority}));
  }
  for (const int policy : {-1, 4, 6, 77}) EXPECT_FALSE(possible({.policy = policy})) << policy;
}

TEST(Scheduling, ChildrenHaveTheirParentsUnlessThatIsNotToBe) {
  Scheduling s{.policy = SCHED_BATCH, .io_priority = io(2, 3)};
  int nice = -3;
  inherit(s, nice);
  EXPECT_EQ(s, (Scheduling{.policy = SCHED_BATCH, .io_priority = io(2, 3)}));
  EXPECT_EQ(nice, -3);

  s.reset_on_fork = true;
  inherit(s, nice);
  EXPECT_EQ(s, (Scheduling{.policy = SCHED_BATCH, .io_priority = io(2, 3)}));
  EXPECT_EQ(nice, 0);

  s = {.policy = SCHED_FIFO, .priority = 7, .reset_on_fork = true};
  nice = 5;
  inherit(s, nice);
  EXPECT_EQ(s, Scheduling{});
  EXPECT_EQ(nice, 0);
}

TEST(Scheduling, InputAndOutputFollowTheNiceValueUntilTheyAreGivenAPriority) {
  EXPECT_EQ(io_priority({}, -20), io(2, 0));
  EXPECT_EQ(io_priority({}, 0), io(2, 4));
  EXPECT_EQ(io_priority({}, 19), io(2, 7));
  EXPECT_EQ(io_priority({.policy = SCHED_IDLE}, 0), io(3, 4));
  EXPECT_EQ(io_priority({.policy = SCHED_RR, .priority = 1}, 0), io(1, 4));
  EXPECT_EQ(io_priority({.io_priority = io(3, 0)}, 0), io(3, 0));
}

TEST(Scheduling, PrioritiesOfInputAndOutputAreChecked) {
  EXPECT_EQ(refused_io_priority(io(0, 0), false), 0);
  EXPECT_EQ(refused_io_priority(io(0, 1), false), EINVAL);
  EXPECT_EQ(refused_io_priority(io(1, 0), false), EPERM);
  EXPECT_EQ(refused_io_priority(io(1, 0), true), 0);
  EXPECT_EQ(refused_io_priority(io(1, 8), true), EINVAL);
  EXPECT_EQ(refused_io_priority(io(2, 7), false), 0);
  EXPECT_EQ(refused_io_priority(io(2, 8), false), EINVAL);
  EXPECT_EQ(refused_io_priority(io(3, 100), false), 0);
  EXPECT_EQ(refused_io_priority(io(4, 0), true), EINVAL);
  EXPECT_EQ(refused_io_priority(~0u, true), EINVAL);
}

}  // namespace
}  // namespace ramet::vmm
