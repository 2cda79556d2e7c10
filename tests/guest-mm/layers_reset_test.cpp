// Layers: reset brings a child back to what it was grown from, or refuses and changes nothing.
#include <gtest/gtest.h>

#include <set>

#include "guest-mm/frozen_memory.hpp"
#include "guest-mm/pin.hpp"
#include "tests/guest-mm/layers.hpp"

namespace ramet::mm::test {
namespace {

TEST_P(Layers, Reset_brings_back_memory_and_regions_and_frees_what_was_written) {
  for (const bool blocks : {false, true}) {
    Genet g(GetParam(), {.blocks = blocks});
    auto parent = g.make();
    const Gva a = parent->map(8 * kMiB), b = parent->map(4 * kMiB), hidden = parent->map(kMiB);
    write_words(*parent, a, 8 * kMiB, 1);
    write_words(*parent, b, 2 * kMiB, 1);
    write_words(*parent, hidden, kMiB, 1);
    ASSERT_TRUE(parent->as->advise(hidden, kMiB, Advice::DontFork));
    ASSERT_TRUE(parent->as->protect(b, kMiB, Prot::None));
    const auto snapshot = *parent->as->freeze();
    auto child = g.child(snapshot);
    std::size_t regions = 0;
    child->as->visit_regions([&](const Region&) { ++regions; });
    for (unsigned round = 0; round < 6; ++round) {
      write_words(*child, a + round * kMiB, kMiB, 2, 3 * kPageSize);
      if (round & 1) {
        ASSERT_TRUE(child->as->unmap(a + 2 * kMiB, 3 * kMiB));
        ASSERT_TRUE(child->as->protect(a, kMiB, Prot::Read));
        ASSERT_TRUE(child->as->protect(b, kMiB, kReadWrite));
        write_words(*child, b, 4 * kMiB, 3);
        const Gva c = child->map(6 * kMiB);
        write_words(*child, c, 6 * kMiB, 4);
        ASSERT_TRUE(child->as->remap({.address = b, .old_length = 4 * kMiB, .new_length = 8 * kMiB, .may_move = true}));
        ASSERT_TRUE(child->as->advise(a + 5 * kMiB, kMiB, Advice::DontNeed));
      }
      if (round == 3) {
        ASSERT_TRUE(child->as->freeze());  // and nobody stands on it
      }
      const auto done = child->as->reset(*snapshot);
      ASSERT_TRUE(done) << describe(done.error());
      child->check();
      EXPECT_EQ(child->frames(), 0u);
      std::size_t now = 0;
      child->as->visit_regions([&](const Region&) { ++now; });
      EXPECT_EQ(now, regions);
      expect_words(*child, a, 8 * kMiB, 1);
      expect_words(*child, b + kMiB, kMiB, 1);
      EXPECT_FALSE(child->cpu().load(b));
      EXPECT_FALSE(child->cpu().load(hidden));
      EXPECT_EQ(child->cpu().load(b + 3 * kMiB), 0u);
      ASSERT_TRUE(child->as->reset(*snapshot));  // takes the zero page, and tables of the last round, away again
      child->check();
      EXPECT_EQ(child->frames(), 0u);
    }
    EXPECT_EQ(child->as->counters().resets, 12u);
    expect_words(*parent, a, 8 * kMiB, 1);
    child->check_empty();
    parent->check();
  }
}

TEST_P(Layers, Reset_after_one_page_changes_one_table_and_keeps_it_for_the_next) {
  Genet g(GetParam(), {.blocks = false});
  auto parent = g.make();
  const Gva a = parent->map(64 * kMiB);
  write_words(*parent, a, 64 * kMiB, 1);
  const auto snapshot = *parent->as->freeze();
  auto child = g.child(snapshot);
  for (unsigned round = 0; round < 4; ++round) {
    const auto unshared = child->as->counters().tables_unshared + 0;
    ASSERT_TRUE(child->cpu().store(a + 5 * kMiB, round));
    EXPECT_EQ(child->as->counters().tables_unshared - unshared, round == 0 ? 3u : 0u);
    ASSERT_TRUE(child->as->reset(*snapshot));
    ASSERT_EQ(child->cpu().load(a + 5 * kMiB), (a + 5 * kMiB) ^ 1);
  }
  const auto tables = child->as->usage().table_pages;
  ASSERT_TRUE(child->as->reset(*snapshot));
  EXPECT_EQ(child->as->usage().table_pages, tables - 3);
  child->check();
}

TEST_P(Layers, Reset_refuses_what_is_pinned_and_strangers) {
  Genet g(GetParam());
  auto parent = g.make();
  const Gva a = parent->map(kMiB);
  write_words(*parent, a, kMiB, 1);
  const auto snapshot = *parent->as->freeze(), other = *parent->as->freeze();
  auto child = g.child(snapshot);
  {
    auto pin = child->as->pin(a, kPageSize, Access::Write, AddressSpace::PinTerm::Short);
    ASSERT_TRUE(pin);
    ASSERT_TRUE(child->cpu().store(a, 5));
    EXPECT_EQ(child->as->reset(*snapshot).error(), Error::Pinned);
    EXPECT_EQ(child->cpu().load(a), 5u);
  }
  EXPECT_EQ(child->as->reset(*other).error(), Error::Invalid);
  EXPECT_EQ(parent->as->reset(*other).error(), Error::Invalid);
  ASSERT_TRUE(child->as->reset(*snapshot));
  EXPECT_EQ(child->cpu().load(a), a ^ 1);
  child->check();
}

TEST_P(Layers, Reset_that_fails_changes_nothing_and_leaves_no_bank_with_the_machine) {
  Genet g(GetParam());
  auto parent = g.make();
  const Gva a = parent->map(kMiB), hidden = parent->map(kMiB);
  write_words(*parent, a, kMiB, 1);
  write_words(*parent, hidden, kMiB, 1);
  ASSERT_TRUE(parent->as->advise(hidden, kMiB, Advice::DontFork));
  Gva files[3];
  for (Gva& at : files) {
    const auto file = std::make_shared<TestFile>(*parent->memory, kPageSize);
    at = *parent->as->map({.length = kPageSize, .prot = kRead, .shared = true, .backing = file});
  }
  const auto snapshot = *parent->as->freeze();
  FullMachine machine;
  auto child = g.child(snapshot);
  ASSERT_TRUE(child->memory->observe(machine));
  ASSERT_TRUE(child->cpu().store(a, 5));
  ASSERT_TRUE(child->as->unmap(files[0], kPageSize));
  ASSERT_TRUE(child->as->unmap(files[1], kPageSize));
  const auto unchanged = [&](Error why, const std::set<Gpa>& known) {
    EXPECT_EQ(child->as->reset(*snapshot).error(), why);
    EXPECT_EQ(machine.known, known);
    EXPECT_EQ(child->cpu().load(a), 5u);
    EXPECT_FALSE(child->cpu().load(files[0]));
    EXPECT_TRUE(child->cpu().load(files[2]));
    EXPECT_EQ(child->as->counters().resets, 0u);
    child->check();
  };
  const auto known = machine.known;
  unsigned asked = 0;
  machine.refuse = [&](const Bank&) { return ++asked == 2; };  // has room for one of the two
  unchanged(Error::NoMemory, known);
  EXPECT_EQ(asked, 2u);
  machine.refuse = {};
  {
    const auto pin = child->as->pin(a, kPageSize, Access::Write, AddressSpace::PinTerm::Short);
    unchanged(Error::Pinned, known);
  }
  use_up_tables(*child, 0);
  unchanged(Error::NoMemory, machine.known);
  ASSERT_TRUE(child->as->unmap(0x7000'0000'0000, 1ull << 30));
  ASSERT_TRUE(child->as->reset(*snapshot));
  EXPECT_EQ(child->cpu().load(a), a ^ 1);
  EXPECT_FALSE(child->cpu().load(hidden));
  for (const Gva at : files) EXPECT_TRUE(child->cpu().load(at));
  child->check();
}

}  // namespace
}  // namespace ramet::mm::test
