// The fault-around policy, driven by itself.
#include <gtest/gtest.h>

#include "guest-mm/fault_around.hpp"
#include "tests/guest-mm/world.hpp"

namespace ramet::mm::test {
namespace {

constexpr Gva kAround = 0x7000'0000'0000;

AroundInput anonymous(Gva address, std::uint64_t length = 256 * kMiB) {
  AroundInput in;
  in.address = address;
  in.start = kAround;
  in.end = kAround + length;
  in.blocks = in.block_absent = true;
  in.free_frames = in.total_frames = 1 << 18;
  return in;
}
std::uint64_t pages(const AroundPlan& p) { return (p.end - p.start) / kPageSize; }

TEST(FaultAround, A_first_fault_in_the_middle_of_nowhere_maps_an_aligned_window) {
  const auto plan = plan_around(anonymous(kAround + kMiB + 0x5000), {});
  EXPECT_EQ(plan.blocks, 0u);
  EXPECT_EQ(plan.start, kAround + kMiB);
  EXPECT_EQ(plan.end, kAround + kMiB + 0x10000);
}
TEST(FaultAround, A_fault_at_the_head_of_a_block_takes_the_block) {
  EXPECT_EQ(plan_around(anonymous(kAround + 0xf000), {}).blocks, 1u);
  EXPECT_EQ(plan_around(anonymous(kAround + 0x10000), {}).blocks, 0u);
}
TEST(FaultAround, Advised_regions_and_neighbours_of_blocks_take_a_block_anywhere) {
  auto in = anonymous(kAround + 3 * kMiB);
  EXPECT_EQ(plan_around(in, {}).blocks, 0u);
  in.eager_blocks = true;
  EXPECT_EQ(plan_around(in, {}).blocks, 1u);
  in.eager_blocks = false;
  in.previous_is_block = true;
  EXPECT_EQ(plan_around(in, {}).blocks, 1u);
}
TEST(FaultAround, A_block_must_lie_inside_its_region_whole_and_empty) {
  auto in = anonymous(kAround, 2 * kMiB);
  EXPECT_EQ(plan_around(in, {}).blocks, 1u);
  in.end -= kPageSize;
  EXPECT_EQ(plan_around(in, {}).blocks, 0u);
  in = anonymous(kAround);
  in.block_absent = false;
  EXPECT_EQ(plan_around(in, {}).blocks, 0u);
  in = anonymous(kAround);
  in.blocks = false;
  EXPECT_EQ(plan_around(in, {}).blocks, 0u);
  in = anonymous(kAround + kBlockSize);
  in.start = kAround + kBlockSize + kPageSize;
  in.address = in.start;
  EXPECT_EQ(plan_around(in, {}).blocks, 0u);
}
TEST(FaultAround, Touching_256_MiB_in_order_takes_fewer_faults_than_blocks) {
  AroundState state;
  unsigned faults = 0;
  for (Gva at = kAround; at < kAround + 256 * kMiB; ++faults) {
    const auto plan = plan_around(anonymous(at), state);
    ASSERT_GT(plan.blocks, 0u);
    ASSERT_LE(plan.blocks, kMaxBlocksPerFault);
    at = plan.next.up;
    state = plan.next;
  }
  EXPECT_LE(faults, 34u);
}
TEST(FaultAround, Several_blocks_never_reach_beyond_the_region) {
  const AroundState running{.up = kAround + 8 * kMiB, .down = kAround, .pages = 4 * kPagesPerBlock};
  auto in = anonymous(kAround + 8 * kMiB, 13 * kMiB);
  EXPECT_EQ(plan_around(in, running).blocks, 2u);
}
TEST(FaultAround, Windows_grow_while_faults_come_in_sequence_and_start_over_when_they_do_not) {
  auto in = anonymous(kAround);
  in.blocks = false;
  auto plan = plan_around(in, {});
  EXPECT_EQ(pages(plan), 16u);
  in.address = plan.end;
  plan = plan_around(in, plan.next);
  EXPECT_EQ(plan.end - in.address, 48 * kPageSize);  // an aligned window of 64, the first 16 are there
  in.address = plan.end;
  plan = plan_around(in, plan.next);
  EXPECT_EQ(plan.end, kAround + kMiB);
  in.address = plan.end;
  plan = plan_around(in, plan.next);
  EXPECT_EQ(plan.end, kAround + kBlockSize);
  in.address = kAround + 10 * kBlockSize + 0x50000;
  EXPECT_EQ(pages(plan_around(in, plan.next)), 16u);
}
TEST(FaultAround, A_stack_that_grows_downwards_is_in_sequence_too) {
  auto in = anonymous(kAround + 8 * kMiB - kPageSize, 8 * kMiB);
  auto plan = plan_around(in, {});
  EXPECT_EQ(plan.blocks, 0u);
  EXPECT_EQ(pages(plan), 16u);
  in.block_absent = false;
  in.address = plan.start - kPageSize;
  EXPECT_EQ(pages(plan_around(in, plan.next)), 64u);
}
TEST(FaultAround, Many_windows_in_one_block_bring_the_rest_of_it) {
  auto in = anonymous(kAround + kMiB);
  in.block_absent = false;
  in.populated = 63;
  EXPECT_EQ(pages(plan_around(in, {})), 16u);
  in.populated = 64;
  EXPECT_EQ(pages(plan_around(in, {})), 512u);
}
TEST(FaultAround, Low_memory_means_no_growing_and_then_no_neighbours) {
  auto in = anonymous(kAround);
  in.free_frames = in.total_frames / 8 - 1;
  const AroundState running{.up = kAround, .down = kAround - kBlockSize, .pages = 512};
  auto plan = plan_around(in, running);
  EXPECT_EQ(plan.blocks, 0u);
  EXPECT_EQ(pages(plan), 16u);
  in.free_frames = 31;
  plan = plan_around(in, running);
  EXPECT_EQ(plan.blocks, 0u);
  EXPECT_EQ(plan.start, in.address);
  EXPECT_EQ(pages(plan), 1u);
}
TEST(FaultAround, Blocks_ahead_leave_the_last_eighth_of_memory_to_those_who_touch_it) {
  auto in = anonymous(kAround + 8 * kMiB);
  const AroundState running{.up = in.address, .down = kAround, .pages = 4 * kPagesPerBlock};
  in.free_frames = in.total_frames / 8 + 2 * kPagesPerBlock;
  EXPECT_EQ(plan_around(in, running).blocks, 2u);
  in.free_frames = in.total_frames / 8;
  EXPECT_EQ(plan_around(in, running).blocks, 1u);
}
TEST(FaultAround, A_window_is_clipped_to_its_region) {
  auto in = anonymous(kAround + 0x3000, 0x7000);
  in.start = kAround + 0x2000;
  const auto plan = plan_around(in, {});
  EXPECT_EQ(plan.start, kAround + 0x2000);
  EXPECT_EQ(plan.end, kAround + 0x7000);
}
TEST(FaultAround, A_small_region_is_mapped_whole_in_whatever_tables_it_lies) {
  auto in = anonymous(kAround + kMiB + 0x5000);
  in.start = kAround + kMiB + 0x3000;
  in.end = in.start + 32 * kPageSize;
  auto plan = plan_around(in, {});
  EXPECT_EQ(plan.start, in.start);
  EXPECT_EQ(plan.end, in.end);
  in.end += kPageSize;
  EXPECT_EQ(pages(plan_around(in, {})), 13u);
  in.start = kAround + kBlockSize - 5 * kPageSize;
  in.end = in.start + 16 * kPageSize;
  in.address = kAround + kBlockSize + kPageSize;
  plan = plan_around(in, {});
  EXPECT_EQ(plan.start, in.start);
  EXPECT_EQ(plan.end, in.end);
}
TEST(FaultAround, A_window_of_one_page_switches_it_off) {
  auto in = anonymous(kAround);
  in.window = 1;
  in.populated = 500;
  const auto plan = plan_around(in, {.up = kAround, .down = 0, .pages = 512});
  EXPECT_EQ(plan.blocks, 0u);
  EXPECT_EQ(pages(plan), 1u);
}

}  // namespace
}  // namespace ramet::mm::test
