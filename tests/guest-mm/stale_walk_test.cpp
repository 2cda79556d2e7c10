// A processor that walked a table once goes on from there until a flush, though another table stands in its place by
// now. It finds nothing older there than what it may find, and what it sets there is not missed.
#include <gtest/gtest.h>

#include <cstring>

#include "guest-mm/frozen_memory.hpp"
#include "guest-mm/pin.hpp"
#include "tests/guest-mm/world.hpp"

namespace ramet::mm::test {
namespace {

class StaleWalk : public ForEachFormat {};
RAMET_FOR_EACH_FORMAT(StaleWalk);

// The layer's table gets a copy of a pinned page. The owner's vCPU, in that table from before, would read the copy
// while the device writes the page.
TEST_P(StaleWalk, A_freeze_shows_no_vcpu_the_copy_of_a_pinned_page) {
  Genet g(GetParam(), {.blocks = false});
  auto parent = g.make();
  const Gva pinned = parent->map(2 * kPageSize), beside = pinned + kPageSize;
  ASSERT_TRUE(parent->cpu().store(pinned, 0));
  ASSERT_TRUE(parent->cpu().store(beside, 0));
  const auto pin = *parent->as->pin(pinned, kPageSize, Access::Write, AddressSpace::PinTerm::Short);
  std::uint64_t written = 0;
  unsigned looks = 0;
  const auto there = [&] { return parent->tlb.walk(pinned, [](Gpa, unsigned, std::uint64_t) {}).has_value(); };
  parent->tlb.before_flush = [&] {
    if (!there()) return;
    std::memcpy(as_device(pin.ranges()[0]), &++written, sizeof written);
    EXPECT_EQ(parent->cpu(1).load(pinned), written);
    ++looks;
  };
  parent->tlb.after_flush = [&] {
    if (!there()) return;
    EXPECT_EQ(parent->cpu(1).load(beside), 0u);
  };
  const auto snapshot = *parent->as->freeze();
  parent->tlb.before_flush = parent->tlb.after_flush = nullptr;
  EXPECT_GT(looks, 0u);
  EXPECT_EQ(parent->cpu(1).load(pinned), written);
  auto child = g.child(snapshot);
  EXPECT_LE(*child->cpu().load(pinned), written);
  child->check();
  parent->check();
}

// A fault gives the VM a table of its own; before that is flushed, a vCPU reads a page, which nobody had used, through
// the old one. Then another vCPU's write gives the page a frame of its own, without the lock: the first has to be told.
TEST_P(StaleWalk, A_page_that_was_used_through_the_old_table_is_flushed_when_it_is_copied) {
  Genet g(GetParam(), {.blocks = false, .eager_accessed_dirty = false, .around_pages = 16});
  auto w = g.make();
  constexpr Gva kBlock = 0x2000'0000;
  const Gva used = w->map_at(kBlock, 64 * kPageSize), around = used + kPageSize, absent = used + 32 * kPageSize;
  ASSERT_TRUE(w->cpu().store(used, 1));  // maps what lies around as well
  const auto snapshot = *w->as->freeze();
  ASSERT_EQ(w->cpu(1).load(used), 1u);
  bool raced = false;
  w->tlb.before_flush = [&] {
    const auto here = w->tlb.walk(around, [](Gpa, unsigned, std::uint64_t) {});
    if (raced || !here) return;
    raced = true;
    EXPECT_EQ(w->cpu(1).load(around), 0u);
    EXPECT_TRUE(w->cpu(2).store(around, 2));
    EXPECT_EQ(w->cpu(1).load(around), 2u);
  };
  ASSERT_TRUE(w->cpu().store(absent, 3));
  w->tlb.before_flush = nullptr;
  EXPECT_TRUE(raced || GetParam() != Format::X86_64Stage1);  // elsewhere nothing need be there until the flush is done
  EXPECT_EQ(w->cpu(1).load(around), raced ? 2u : 0u);
  w->check();
}

}  // namespace
}  // namespace ramet::mm::test
