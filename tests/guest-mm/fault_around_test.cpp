// The fault-around policy, driven by itself.
#include <gtest/gtest.h>

#include "guest-mm/fault_around.hpp"

namespace ramet::mm {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;
constexpr Gva kBase = 0x7000'0000'0000;

AroundInput anonymous(Gva address, std::uint64_t length = 256 * kMiB) {
  AroundInput in;
  in.address = address;
  in.start = kBase;
  in.end = kBase + length;
  in.blocks = in.block_absent = true;
  in.free_frames = in.total_frames = 1 << 18;
  return in;
}
std::uint64_t pages(const AroundPlan& p) { return (p.end - p.start) / kPageSize; }

TEST(FaultAround, A_first_fault_in_the_middle_of_nowhere_maps_an_aligned_window) {
  const auto plan = plan_around(anonymous(kBase + kMiB + 0x5000), {});
  EXPECT_EQ(plan.blocks, 0u);
  EXPECT_EQ(plan.start, kBase + kMiB);
  EXPECT_EQ(plan.end, kBase + kMiB + 0x10000);
}
TEST(FaultAround, A_fault_at_the_head_of_a_block_takes_the_block) {
  EXPECT_EQ(plan_around(anonymous(kBase + 0xf000), {}).blocks, 1u);
  EXPECT_EQ(plan_around(anonymous(kBase + 0x10000), {}).blocks, 0u);
}
TEST(FaultAround, Advised_regions_and_neighbours_of_blocks_take_a_block_anywhere) {
  auto in = anonymous(kBase + 3 * kMiB);
  EXPECT_EQ(plan_around(in, {}).blocks, 0u);
  in.eager_blocks = true;
  EXPECT_EQ(plan_around(in, {}).blocks, 1u);
  in.eager_blocks = false;
  in.previous_is_block = true;
  EXPECT_EQ(plan_around(in, {}).blocks, 1u);
}
TEST(FaultAround, A_block_must_lie_inside_its_region_whole_and_empty) {
  auto in = anonymous(kBase, 2 * kMiB);
  EXPECT_EQ(plan_around(in, {}).blocks, 1u);
  in.end -= kPageSize;
  EXPECT_EQ(plan_around(in, {}).blocks, 0u);
  in = anonymous(kBase);
  in.block_absent = false;
  EXPECT_EQ(plan_around(in, {}).blocks, 0u);
  in = anonymous(kBase);
  in.blocks = false;
  EXPECT_EQ(plan_around(in, {}).blocks, 0u);
  in = anonymous(kBase + kBlockSize);
  in.start = kBase + kBlockSize + kPageSize;
  in.address = in.start;
  EXPECT_EQ(plan_around(in, {}).blocks, 0u);
}
TEST(FaultAround, Touching_256_MiB_in_order_takes_fewer_faults_than_blocks) {
  AroundState state;
  unsigned faults = 0;
  for (Gva at = kBase; at < kBase + 256 * kMiB; ++faults) {
    const auto plan = plan_around(anonymous(at), state);
    ASSERT_GT(plan.blocks, 0u);
    ASSERT_LE(plan.blocks, kMaxBlocksPerFault);
    at = plan.next.up;
    state = plan.next;
  }
  EXPECT_LE(faults, 34u);
}
TEST(FaultAround, Several_blocks_never_reach_beyond_the_region) {
  const AroundState running{.up = kBase + 8 * kMiB, .down = kBase, .pages = 4 * kPagesPerBlock};
  auto in = anonymous(kBase + 8 * kMiB, 13 * kMiB);
  EXPECT_EQ(plan_around(in, running).blocks, 2u);
}
TEST(FaultAround, Windows_grow_while_faults_come_in_sequence_and_start_over_when_they_do_not) {
  auto in = anonymous(kBase);
  in.blocks = false;
  auto plan = plan_around(in, {});
  EXPECT_EQ(pages(plan), 16u);
  in.address = plan.end;
  plan = plan_around(in, plan.next);
  EXPECT_EQ(plan.end - in.address, 48 * kPageSize);  // an aligned window of 64, the first 16 are there
  in.address = plan.end;
  plan = plan_around(in, plan.next);
  EXPECT_EQ(plan.end, kBase + kMiB);
  in.address = plan.end;
  plan = plan_around(in, plan.next);
  EXPECT_EQ(plan.end, kBase + kBlockSize);
  in.address = kBase + 10 * kBlockSize + 0x50000;
  EXPECT_EQ(pages(plan_around(in, plan.next)), 16u);
}
TEST(FaultAround, A_stack_that_grows_downwards_is_in_sequence_too) {
  auto in = anonymous(kBase + 8 * kMiB - kPageSize, 8 * kMiB);
  auto plan = plan_around(in, {});
  EXPECT_EQ(plan.blocks, 0u);
  EXPECT_EQ(pages(plan), 16u);
  in.block_absent = false;
  in.address = plan.start - kPageSize;
  EXPECT_EQ(pages(plan_around(in, plan.next)), 64u);
}
TEST(FaultAround, Many_windows_in_one_block_bring_the_rest_of_it) {
  auto in = anonymous(kBase + kMiB);
  in.block_absent = false;
  in.populated = 63;
  EXPECT_EQ(pages(plan_around(in, {})), 16u);
  in.populated = 64;
  EXPECT_EQ(pages(plan_around(in, {})), 512u);
}
TEST(FaultAround, Low_memory_means_no_growing_and_then_no_neighbours) {
  auto in = anonymous(kBase);
  in.free_frames = in.total_frames / 8 - 1;
  const AroundState running{.up = kBase, .down = kBase - kBlockSize, .pages = 512};
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
  auto in = anonymous(kBase + 8 * kMiB);
  const AroundState running{.up = in.address, .down = kBase, .pages = 4 * kPagesPerBlock};
  in.free_frames = in.total_frames / 8 + 2 * kPagesPerBlock;
  EXPECT_EQ(plan_around(in, running).blocks, 2u);
  in.free_frames = in.total_frames / 8;
  EXPECT_EQ(plan_around(in, running).blocks, 1u);
}
TEST(FaultAround, A_window_is_clipped_to_its_region) {
  auto in = anonymous(kBase + 0x3000, 0x7000);
  in.start = kBase + 0x2000;
  const auto plan = plan_around(in, {});
  EXPECT_EQ(plan.start, kBase + 0x2000);
  EXPECT_EQ(plan.end, kBase + 0x7000);
}
TEST(FaultAround, A_small_region_is_mapped_whole_in_whatever_tables_it_lies) {
  auto in = anonymous(kBase + kMiB + 0x5000);
  in.start = kBase + kMiB + 0x3000;
  in.end = in.start + 32 * kPageSize;
  auto plan = plan_around(in, {});
  EXPECT_EQ(plan.start, in.start);
  EXPECT_EQ(plan.end, in.end);
  in.end += kPageSize;
  EXPECT_EQ(pages(plan_around(in, {})), 13u);
  in.start = kBase + kBlockSize - 5 * kPageSize;
  in.end = in.start + 16 * kPageSize;
  in.address = kBase + kBlockSize + kPageSize;
  plan = plan_around(in, {});
  EXPECT_EQ(plan.start, in.start);
  EXPECT_EQ(plan.end, in.end);
}
TEST(FaultAround, A_window_of_one_page_switches_it_off) {
  auto in = anonymous(kBase);
  in.window = 1;
  in.populated = 500;
  const auto plan = plan_around(in, {.up = kBase, .down = 0, .pages = 512});
  EXPECT_EQ(plan.blocks, 0u);
  EXPECT_EQ(pages(plan), 1u);
}

}  // namespace
}  // namespace ramet::mm
