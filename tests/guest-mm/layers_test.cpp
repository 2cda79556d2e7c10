// Layers: freezing a VM's memory, growing children from it, copy-on-write, and what becomes of frames and tables when
// the others have gone.
#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <set>
#include <thread>

#include "guest-mm/pin.hpp"
#include "guest-mm/snapshot.hpp"
#include "tests/guest-mm/world.hpp"

namespace ramet::mm::test {
namespace {

class Layers : public ForEachFormat {};
RAMET_FOR_EACH_FORMAT(Layers);

void write_words(World& w, Gva from, std::uint64_t length, std::uint64_t what, std::uint64_t step = kPageSize) {
  for (Gva at = from; at < from + length; at += step) ASSERT_TRUE(w.cpu().store(at, at ^ what));
}
void expect_words(World& w, Gva from, std::uint64_t length, std::uint64_t what, std::uint64_t step = kPageSize) {
  for (Gva at = from; at < from + length; at += step) ASSERT_EQ(w.cpu().load(at), at ^ what) << std::hex << at;
}

TEST_P(Layers, A_child_has_its_parents_memory_and_neither_sees_what_the_other_writes_later) {
  for (const bool blocks : {false, true}) {
    Genet g(GetParam(), {.blocks = blocks});
    auto parent = g.make();
    const Gva a = parent->map(8 * kMiB);
    write_words(*parent, a, 8 * kMiB, 1);
    auto snapshot = parent->as->freeze();
    ASSERT_TRUE(snapshot);
    auto child = g.child(*snapshot);
    expect_words(*child, a, 8 * kMiB, 1);
    EXPECT_EQ(child->frames(), 0u);
    write_words(*child, a, 4 * kMiB, 2, 3 * kPageSize);
    write_words(*parent, a + 2 * kMiB, 4 * kMiB, 3, 5 * kPageSize);
    for (Gva at = a; at < a + 8 * kMiB; at += kPageSize) {
      const bool by_child = at < a + 4 * kMiB && (at - a) % (3 * kPageSize) == 0;
      const bool by_parent = at >= a + 2 * kMiB && at < a + 6 * kMiB && (at - a - 2 * kMiB) % (5 * kPageSize) == 0;
      ASSERT_EQ(child->cpu().load(at), at ^ (by_child ? 2 : 1));
      ASSERT_EQ(parent->cpu().load(at), at ^ (by_parent ? 3 : 1));
    }
    EXPECT_EQ(child->as->counters().pages_copied, (4 * kMiB / kPageSize + 2) / 3);
    parent->check();
    child->check();
    child->check_empty();
    child.reset();
    snapshot->reset();
    expect_words(*parent, a + 6 * kMiB, 2 * kMiB, 1);
    parent->check();
    parent->check_empty();
  }
}

TEST_P(Layers, A_child_that_writes_a_page_takes_a_page_and_the_tables_on_the_way) {
  Genet g(GetParam());
  auto parent = g.make();
  const Gva a = parent->map(32 * kMiB);
  write_words(*parent, a, 32 * kMiB, 1);
  const auto snapshot = *parent->as->freeze();
  auto child = g.child(snapshot);
  const auto tables = child->as->usage().table_pages;
  ASSERT_TRUE(child->cpu().store(a + 5 * kMiB, 7));
  EXPECT_EQ(child->frames(), 1u);
  EXPECT_EQ(child->as->usage().table_pages, tables + 3);
  child->check();
}

TEST_P(Layers, What_nobody_else_sees_any_more_is_written_in_place) {
  Genet g(GetParam());
  auto parent = g.make();
  const Gva a = parent->map(4 * kMiB);
  write_words(*parent, a, 4 * kMiB, 1);
  const auto frames = parent->frames(), tables = parent->as->usage().table_pages;
  for (unsigned round = 0; round < 50; ++round) {
    auto snapshot = *parent->as->freeze();
    auto child = g.child(snapshot);
    snapshot.reset();
    ASSERT_TRUE(child->cpu().store(a, round));
    ASSERT_TRUE(parent->cpu().store(a + kMiB, round));  // a copy, as long as the child lives
    child.reset();
    const auto copied = parent->as->counters().pages_copied + 0;
    write_words(*parent, a, 4 * kMiB, round);
    ASSERT_EQ(parent->as->counters().pages_copied, copied);
    ASSERT_EQ(parent->frames(), frames);
    ASSERT_LE(parent->as->usage().table_pages, tables + 4);
    parent->check();
  }
  EXPECT_LE(parent->as->usage().peak_bytes, (frames + 64) * kPageSize);
  parent->check_empty();
}

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
  ASSERT_TRUE(child->as->unmap(0x7000'0000'0000, kGiantSize));
  ASSERT_TRUE(child->as->reset(*snapshot));
  EXPECT_EQ(child->cpu().load(a), a ^ 1);
  EXPECT_FALSE(child->cpu().load(hidden));
  for (const Gva at : files) EXPECT_TRUE(child->cpu().load(at));
  child->check();
}

TEST_P(Layers, A_grandchild_stands_on_all_layers_and_outlives_the_vms_they_came_from) {
  Genet g(GetParam());
  auto parent = g.make();
  const Gva a = parent->map(4 * kMiB), b = parent->map(kMiB);
  write_words(*parent, a, 4 * kMiB, 1);
  auto first = *parent->as->freeze();
  auto child = g.child(first);
  write_words(*child, a + kMiB, kMiB, 2);
  write_words(*child, b, kMiB, 2);
  auto second = *child->as->freeze();
  auto grandchild = g.child(second);
  write_words(*child, a, 4 * kMiB, 9);
  write_words(*parent, a, 4 * kMiB, 8);
  first.reset();
  second.reset();
  parent.reset();
  child.reset();
  expect_words(*grandchild, a, kMiB, 1);
  expect_words(*grandchild, a + kMiB, kMiB, 2);
  expect_words(*grandchild, a + 2 * kMiB, 2 * kMiB, 1);
  expect_words(*grandchild, b, kMiB, 2);
  write_words(*grandchild, a, 4 * kMiB, 3);
  expect_words(*grandchild, a, 4 * kMiB, 3);
  grandchild->check();
  grandchild->check_empty();
}

TEST_P(Layers, Memory_operations_of_a_child_leave_its_parent_alone) {
  Genet g(GetParam());
  auto parent = g.make();
  const Gva a = parent->map(16 * kMiB);
  write_words(*parent, a, 16 * kMiB, 1);
  const auto snapshot = *parent->as->freeze();
  auto child = g.child(snapshot);
  auto& as = *child->as;
  ASSERT_TRUE(as.unmap(a + 0x3000, 3 * kMiB));
  ASSERT_TRUE(as.protect(a + 4 * kMiB, kMiB, Prot::None));
  ASSERT_TRUE(as.protect(a + 6 * kMiB, kMiB, kRead));
  ASSERT_TRUE(as.advise(a + 8 * kMiB, kMiB + 0x5000, Advice::DontNeed));
  const auto moved = as.remap({.address = a + 10 * kMiB, .old_length = 4 * kMiB, .new_length = 4 * kMiB, .may_move = true,
                               .fixed = true, .new_address = 0x6000'0000'0000});
  ASSERT_TRUE(moved);
  child->check();
  expect_words(*parent, a, 16 * kMiB, 1);
  EXPECT_EQ(child->cpu().load(a + 0x3000).error(), Error::NotMapped);
  EXPECT_EQ(child->cpu().load(a + 4 * kMiB).error(), Error::NotPermitted);
  EXPECT_EQ(child->cpu().store(a + 6 * kMiB, 1).error(), Error::NotPermitted);
  EXPECT_EQ(child->cpu().load(a + 8 * kMiB), 0u);
  for (Gva at = 0; at < 4 * kMiB; at += kPageSize) ASSERT_EQ(child->cpu().load(*moved + at), (a + 10 * kMiB + at) ^ 1);
  ASSERT_TRUE(as.protect(a + 4 * kMiB, kMiB, kReadWrite));
  write_words(*child, a + 4 * kMiB, kMiB, 5);
  write_words(*child, *moved, 4 * kMiB, 6);
  expect_words(*parent, a, 16 * kMiB, 1);
  child->check();
  child->check_empty();
  parent->check();
}

TEST_P(Layers, Shared_memory_stays_shared_and_what_is_not_to_be_forked_is_not) {
  Genet g(GetParam());
  auto parent = g.make();
  auto file = std::make_shared<TestFile>(*parent->memory, 64 * 1024);
  const Gva shared = 0x2000'0000, alone = 0x3000'0000, own = 0x3001'0000;
  ASSERT_TRUE(parent->as->map({.address = shared, .length = 64 * 1024, .prot = kReadWrite, .fixed = true, .shared = true, .backing = file}));
  parent->map_at(alone, 0x10000);
  parent->map_at(own, 0x10000);
  ASSERT_TRUE(parent->as->advise(alone, 0x10000, Advice::DontFork));
  write_words(*parent, shared, 0x10000, 1);
  write_words(*parent, alone, 0x20000, 1);
  const auto snapshot = *parent->as->freeze();
  auto child = g.child(snapshot);
  write_words(*child, shared, 0x10000, 2);
  expect_words(*parent, shared, 0x10000, 2);
  write_words(*parent, shared, 0x8000, 3);
  expect_words(*child, shared, 0x8000, 3);
  EXPECT_EQ(child->cpu().load(alone).error(), Error::NotMapped);
  expect_words(*child, own, 0x10000, 1);
  EXPECT_EQ(child->as->counters().pages_copied, 0u);
  EXPECT_EQ(parent->as->counters().pages_copied, 0u);
  parent.reset();
  expect_words(*child, shared, 0x8000, 3);
  child->check();
  child->check_empty();
}

TEST_P(Layers, What_is_wiped_on_fork_is_zeroes_in_children_and_theirs) {
  Genet g(GetParam());
  auto parent = g.make();
  const Gva a = 0x2000'0000, wiped = a + 0x10000;
  parent->map_at(a, 0x30000);
  write_words(*parent, a, 0x30000, 1);
  ASSERT_TRUE(parent->as->advise(wiped, 0x10000, Advice::WipeOnFork));
  auto child = g.child(*parent->as->freeze());
  expect_words(*child, a, 0x10000, 1);
  for (Gva at = wiped; at < wiped + 0x10000; at += kPageSize) EXPECT_EQ(child->cpu().load(at), 0u);
  expect_words(*child, wiped + 0x10000, 0x10000, 1);
  write_words(*child, wiped, 0x10000, 2);
  auto grandchild = g.child(*child->as->freeze());
  EXPECT_EQ(grandchild->cpu().load(wiped), 0u);
  expect_words(*child, wiped, 0x10000, 2);
  expect_words(*parent, wiped, 0x10000, 1);
  grandchild->check();
  child->check();
  parent->check();
}

TEST_P(Layers, What_is_locked_is_not_dropped_and_children_have_nothing_locked) {
  Genet g(GetParam());
  auto parent = g.make();
  const Gva a = 0x2000'0000, locked = a + 0x10000;
  parent->map_at(a, 0x30000);
  write_words(*parent, a, 0x30000, 1);
  ASSERT_TRUE(parent->as->advise(locked, 0x10000, Advice::Lock));
  EXPECT_EQ(parent->as->advise(locked + 0x1000, 0x1000, Advice::DontNeed), fail(Error::Invalid));
  EXPECT_EQ(parent->as->advise(locked, 0x10000, Advice::Free), fail(Error::Invalid));
  EXPECT_EQ(parent->as->advise(a, 0x30000, Advice::DontNeed), fail(Error::Invalid));
  EXPECT_EQ(parent->cpu().load(a), 0u) << "what lies before it goes";
  expect_words(*parent, locked, 0x20000, 1);
  auto child = g.child(*parent->as->freeze());
  EXPECT_TRUE(parent->as->find_region(locked)->locked);
  EXPECT_EQ(child->as->find_region(locked)->length(), 0x30000u) << "one region, as nothing tells its parts apart";
  EXPECT_TRUE(child->as->advise(locked, 0x10000, Advice::DontNeed));
  EXPECT_EQ(child->cpu().load(locked), 0u);
  expect_words(*parent, locked, 0x10000, 1);
  EXPECT_TRUE(parent->as->advise(locked, 0x1000, Advice::DontNeedLocked));
  EXPECT_EQ(parent->cpu().load(locked), 0u);
  ASSERT_TRUE(parent->as->advise(locked, 0x10000, Advice::Unlock));
  EXPECT_EQ(parent->as->find_region(locked)->length(), 0x30000u);
  EXPECT_TRUE(parent->as->advise(locked, 0x10000, Advice::DontNeed));
  child->check();
  parent->check();
}

TEST_P(Layers, What_is_moved_beside_memory_of_a_layer_leaves_it_as_it_was) {
  Genet g(GetParam());
  auto parent = g.make();
  const Gva neighbour = 0x2000'0000, from = 0x3000'0000, to = neighbour + kBlockSize - 0x10000;
  parent->map_at(neighbour, 0x10000);
  parent->map_at(from, 0x10000);
  write_words(*parent, neighbour, 0x10000, 1);
  write_words(*parent, from, 0x10000, from ^ to);  // what is expected at the other address
  auto child = g.child(*parent->as->freeze());
  for (World* w : {parent.get(), child.get()}) {
    const auto at = w->as->remap({.address = from, .old_length = 0x10000, .new_length = 0x10000, .may_move = true,
                                  .fixed = true, .new_address = to});
    ASSERT_EQ(at, to);
    expect_words(*w, neighbour, 0x10000, 1);
    expect_words(*w, to, 0x10000, 0);
    w->check();
  }
}

TEST_P(Layers, A_part_of_a_block_is_left_out) {
  Genet g(GetParam());
  auto parent = g.make();
  const Gva a = 0x2000'0000;
  parent->map_at(a, kBlockSize);
  ASSERT_TRUE(parent->as->advise(a, kBlockSize, Advice::Huge));
  write_words(*parent, a, kBlockSize, 1);
  ASSERT_TRUE(parent->as->advise(a + 0x10000, 0x10000, Advice::DontFork));
  parent->check();
  auto child = g.child(*parent->as->freeze());
  expect_words(*child, a, 0x10000, 1);
  EXPECT_EQ(child->cpu().load(a + 0x10000).error(), Error::NotMapped);
  EXPECT_EQ(child->cpu().load(a + 0x1f000).error(), Error::NotMapped);
  expect_words(*child, a + 0x20000, kBlockSize - 0x20000, 1);
  child->check();
  expect_words(*parent, a, kBlockSize, 1);
}

// The tables that lead to the place are others' as well, and are copied for it.
TEST_P(Layers, Memory_that_is_mapped_at_once_where_tables_are_shared_flushes_and_frees_those_it_left) {
  for (const std::uint64_t length : {2 * kBlockSize, kBlockSize / 2}) {
    Genet g(GetParam());
    auto parent = g.make();
    const Gva a = 0x1'0000'0000;
    parent->map_at(a, kMiB);
    write_words(*parent, a, kMiB, 1);
    auto child = g.child(*parent->as->freeze());
    for (World* w : {parent.get(), child.get()}) {
      // Walks through the shared tables; in stage 2 that unshares them.
      if (GetParam() != Format::Arm64Stage2) expect_words(*w, a, kMiB, 1);
      const Counters& c = w->as->counters();
      const std::uint64_t strict = w->tlb.strict, unshared = c.tables_unshared, freed = c.tables_freed;
      ASSERT_TRUE(w->as->map({.address = a + kBlockSize, .length = length, .prot = kReadWrite, .fixed = true, .populate = true}));
      EXPECT_EQ(c.tables_unshared, unshared + 2);  // of PUDs, of PMDs
      // The layer's tables are the parent's, who made them. Shared tables are absent to the processor in stage 2; on arm64
      // each entry that leads elsewhere is broken first.
      const unsigned freeing = w == parent.get(), breaking = GetParam() == Format::Arm64Stage1 ? 2 : 0;
      EXPECT_EQ(w->tlb.strict, strict + (GetParam() == Format::X86_64Stage1 ? 1 : freeing + breaking));
      EXPECT_EQ(c.tables_freed, freed + 2 * freeing);
      w->check();
    }
    parent->check_empty();
  }
}

TEST_P(Layers, A_freeze_without_a_table_to_be_had_fails_and_changes_nothing) {
  Genet g(GetParam());
  World w(GetParam(), {.tables = 2 * kMiB, .space = g.space});
  const Gva a = w.map(kMiB);
  write_words(w, a, kMiB, 1);
  use_up_tables(w, 0);
  EXPECT_EQ(w.as->freeze().error(), Error::NoMemory);
  write_words(w, a, kMiB, 2);
  EXPECT_EQ(w.as->counters().pages_copied, 0u);
  w.check();
}

TEST_P(Layers, A_copy_that_cannot_be_had_is_no_memory_and_the_page_stays) {
  Genet g(GetParam());
  auto parent = g.make();
  const Gva a = parent->map(4 * kMiB);
  write_words(*parent, a, 4 * kMiB, 1);
  const auto snapshot = *parent->as->freeze();
  World child(GetParam(), {.data = 2 * kMiB, .space = g.space});
  ASSERT_TRUE(child.as->adopt(snapshot));
  Gva at = a;
  while (child.cpu().store(at, at ^ 2)) at += kPageSize;
  EXPECT_EQ(at - a, 2 * kMiB);
  EXPECT_EQ(child.cpu().store(at, 1).error(), Error::NoMemory);
  expect_words(child, a, 2 * kMiB, 2);
  expect_words(child, at, 2 * kMiB, 1);
  child.check();
  child.check_empty();
}

// Writers go on while the VM is frozen and children come and go: each child sees, on every page, what some moment held
// there, and it never changes under it.
TEST_P(Layers, Threads_write_while_the_memory_is_frozen) {
  Genet g(GetParam());
  auto parent = std::make_unique<World>(GetParam(), World::Options{.vcpus = 3, .space = g.space});
  constexpr std::uint64_t kPages = 256;
  const Gva a = parent->map(kPages * kPageSize);
  write_words(*parent, a, kPages * kPageSize, a);
  std::atomic<bool> done{false};
  std::vector<std::thread> writers;
  for (unsigned t = 1; t <= 2; ++t) {
    writers.emplace_back([&, t] {
      std::uint64_t n = 0;
      // Both words of a page, one after the other: a child may see them differ by one step, no more.
      while (!done) {
        const Gva at = a + (n * 7 + t) % (kPages / 2) * 2 * kPageSize + (t - 1) * kPageSize;
        ASSERT_TRUE(parent->cpu(t).store(at + 8, n));
        ASSERT_TRUE(parent->cpu(t).store(at + 16, n));
        ++n;
      }
    });
  }
  for (unsigned round = 0; round < scaled(150, 30); ++round) {
    auto snapshot = *parent->as->freeze();
    auto child = g.child(snapshot);
    snapshot.reset();
    std::vector<std::uint64_t> seen;
    for (unsigned pass = 0; pass < 2; ++pass) {
      for (std::uint64_t i = 0; i < kPages; ++i) {
        const auto first = *child->cpu().load(a + i * kPageSize + 8), second = *child->cpu().load(a + i * kPageSize + 16);
        ASSERT_GE(first, second);
        if (pass == 0) seen.push_back(first);
        else ASSERT_EQ(first, seen[i]);
      }
    }
    ASSERT_TRUE(child->cpu().store(a + round % kPages * kPageSize + 8, ~0ull));
    ASSERT_EQ(child->as->audit(), "");
  }
  done = true;
  for (auto& w : writers) w.join();
  parent->check();
  parent->check_empty();
}

TEST_P(Layers, Copies_are_made_without_the_lock_once_the_tables_are_there) {
  for (const bool speculative : {true, false}) {
    Genet g(GetParam(), {.blocks = false, .speculative_faults = speculative});
    auto parent = g.make();
    const Gva a = parent->map(2 * kMiB);
    write_words(*parent, a, 2 * kMiB, 1);
    auto child = g.child(*parent->as->freeze());
    for (Gva at = a; at < a + 2 * kMiB; at += 3 * kPageSize) ASSERT_TRUE(child->cpu().store(at, at ^ 2));
    const Counters& c = child->as->counters();
    EXPECT_EQ(c.faults_cow, c.faults);
    EXPECT_EQ(c.pages_copied, c.faults);
    EXPECT_EQ(c.spf, speculative ? c.faults - 1 : 0u);  // the first copied the tables
    child->check();
    child->check_empty();
  }
}

TEST_P(Layers, Pages_written_in_order_are_copied_ahead) {
  Genet g(GetParam());
  auto parent = g.make();
  const Gva a = parent->map(8 * kMiB);
  write_words(*parent, a, 8 * kMiB, 1);
  auto child = g.child(*parent->as->freeze());
  write_words(*child, a, 8 * kMiB, 2);
  EXPECT_LE(child->as->counters().faults, 80u);
  EXPECT_EQ(child->as->counters().pages_copied, 2048u);
  expect_words(*child, a, 8 * kMiB, 2);
  child->check();
}

TEST_P(Layers, Pages_between_those_written_are_copied_where_these_are_half) {
  for (const std::uint64_t stride : {2, 3, 16}) {
    Genet g(GetParam());
    auto parent = g.make();
    const Gva a = parent->map(8 * kMiB);
    write_words(*parent, a, 8 * kMiB, 1);
    auto child = g.child(*parent->as->freeze());
    write_words(*child, a, 8 * kMiB, 2, stride * kPageSize);
    const Counters& c = child->as->counters();
    if (stride == 2) {
      EXPECT_LE(c.faults, 4 * 50u);
      EXPECT_GT(c.pages_copied, 2000u);
    } else {
      EXPECT_EQ(c.pages_copied, c.faults);
    }
    for (Gva at = a; at < a + 8 * kMiB; at += kPageSize) ASSERT_EQ(child->cpu().load(at), at ^ ((at - a) / kPageSize % stride ? 1 : 2));
    expect_words(*parent, a, 8 * kMiB, 1);
    child->check();
    child->check_empty();
  }
}

// Wherever it writes: the more it has written, the more is copied ahead.
TEST_P(Layers, Few_writes_bring_few_copies) {
  Genet g(GetParam());
  auto parent = g.make();
  const Gva a = parent->map(8 * kMiB);
  write_words(*parent, a, 8 * kMiB, 1);
  auto child = g.child(*parent->as->freeze());
  std::minstd_rand random(1);
  std::set<Gva> written;
  const Counters& c = child->as->counters();
  double most = 0;
  while (written.size() < 1800) {
    const Gva at = a + random() % 2048 * kPageSize;
    ASSERT_TRUE(child->cpu().store(at, at ^ 2));
    written.insert(at);
    if (written.size() <= 100) {
      ASSERT_EQ(c.pages_copied, written.size());
    }
    most = std::max(most, double(c.pages_copied) / double(written.size()));
  }
  EXPECT_LE(most, 3);
  EXPECT_LT(c.faults, 1500u);
  for (Gva at = a; at < a + 8 * kMiB; at += kPageSize) ASSERT_EQ(child->cpu().load(at), at ^ (written.contains(at) ? 2 : 1));
  expect_words(*parent, a, 8 * kMiB, 1);
  child->check();
  child->check_empty();
}

// Every page of the limit can be written, though pages between would have been copied.
TEST_P(Layers, Nothing_is_copied_ahead_where_memory_is_short) {
  Genet g(GetParam(), {.limit_bytes = 4 * kMiB});
  auto parent = g.make();
  const Gva a = parent->map(4 * kMiB);
  write_words(*parent, a, 4 * kMiB, 1);
  auto child = g.child(*parent->as->freeze());
  const Gva more = child->map(2 * kMiB);
  write_words(*child, a, 4 * kMiB, 2, 2 * kPageSize);
  EXPECT_LE(child->as->counters().pages_copied, 1024u * 7 / 8);
  write_words(*child, more, kMiB / 4, 3);
  child->check();
  child->check_empty();
}

TEST_P(Layers, Blocks_are_copied_whole_where_the_program_wants_them) {
  Genet g(GetParam());
  auto parent = g.make();
  const Gva a = parent->map(8 * kMiB);
  ASSERT_TRUE(parent->as->advise(a, 8 * kMiB, Advice::Huge));
  write_words(*parent, a, 8 * kMiB, 1);
  auto child = g.child(*parent->as->freeze());
  for (Gva at = a; at < a + 8 * kMiB; at += kBlockSize) ASSERT_TRUE(child->cpu().store(at + 0x5000, 7));
  EXPECT_EQ(child->as->counters().faults, 4u);
  EXPECT_EQ(child->as->counters().spf, 3u);
  EXPECT_EQ(child->as->usage().data_blocks_2m, 4u);
  EXPECT_EQ(child->as->counters().split_pmd, 0u);
  expect_words(*child, a + 0x6000, kMiB, 1);
  expect_words(*parent, a, 8 * kMiB, 1);
  child->check();
  child->check_empty();
}

// Threads of a child write the same pages at once, and read what others wrote.
TEST_P(Layers, Copies_race_with_each_other_and_with_changes_of_the_region) {
  Genet g(GetParam());
  auto parent = g.make();
  constexpr std::uint64_t kPages = 1024;
  const Gva a = parent->map(kPages * kPageSize);
  write_words(*parent, a, kPages * kPageSize, 1);
  for (unsigned round = 0; round < scaled(40, 8); ++round) {
    World child(GetParam(), {.vcpus = 3, .space = g.space});
    ASSERT_TRUE(child.as->adopt(*parent->as->freeze()));
    std::vector<std::thread> writers;
    for (unsigned t = 0; t < 2; ++t) {
      writers.emplace_back([&, t] {
        for (std::uint64_t i = 0; i < kPages; ++i) {
          const Gva at = a + (i * 11 + round) % kPages * kPageSize;
          ASSERT_TRUE(child.cpu(t).store(at + 8 + 8 * t, i + 1));
          ASSERT_EQ(child.cpu(t).load(at + 8 + 8 * t), i + 1);
          ASSERT_EQ(child.cpu(t).load(at), at ^ 1);
        }
      });
    }
    std::thread changer([&] {
      for (unsigned i = 0; i < 200; ++i) {
        const Gva part = a + (i * 37 % 960) * kPageSize;
        ASSERT_TRUE(child.as->advise(part, 16 * kPageSize, Advice::DontFork));
        ASSERT_TRUE(child.as->advise(part, 16 * kPageSize, Advice::DoFork));
      }
    });
    for (auto& w : writers) w.join();
    changer.join();
    for (std::uint64_t i = 0; i < kPages; ++i) {
      const Gva at = a + (i * 11 + round) % kPages * kPageSize;
      ASSERT_EQ(child.cpu(2).load(at + 8), i + 1);
      ASSERT_EQ(child.cpu(2).load(at + 16), i + 1);
      ASSERT_EQ(parent->cpu().load(at + 8), 0u);
    }
    child.check();
  }
  parent->check();
}

// While a freeze waits for a fault that began before it, others find tables that are sealed and still in use.
TEST_P(Layers, A_fault_in_the_middle_of_a_freeze_leaves_the_sealed_tables_alone) {
  Genet g(GetParam(), {.blocks = false, .around_pages = 1});
  auto parent = std::make_unique<World>(GetParam(), World::Options{.vcpus = 4, .config = g.config, .space = g.space});
  auto file = std::make_shared<SlowFile>(*parent->memory, 2 * kPageSize);
  const Gva of_file = 0x2000'0000, a = of_file + 0x10000;
  ASSERT_TRUE(parent->as->map({.address = of_file, .length = 2 * kPageSize, .prot = kRead, .fixed = true, .backing = file}));
  parent->map_at(a, 4 * kPageSize);
  ASSERT_TRUE(parent->cpu().store(a, 1));
  ASSERT_TRUE(parent->as->protect(a, kPageSize, kRead));
  ASSERT_TRUE(parent->as->protect(a, kPageSize, kReadWrite));
  file->hold();
  std::thread reader([&] { EXPECT_TRUE(parent->cpu(1).load(of_file)); });
  file->wait_for_reader();
  std::shared_ptr<const Snapshot> snapshot;
  std::thread freezer([&] { snapshot = *parent->as->freeze(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // likely it waits by now; if not, the outcome is the same
  std::thread writer([&] { EXPECT_TRUE(parent->cpu(2).store(a + kPageSize, 2)); });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  file->release();
  reader.join();
  freezer.join();
  writer.join();
  auto child = g.child(snapshot);
  const auto seen = child->cpu().load(a + kPageSize);
  EXPECT_TRUE(seen == 0u || seen == 2u);
  EXPECT_EQ(child->cpu().load(a), 1u);
  EXPECT_EQ(parent->cpu().load(a + kPageSize), 2u);
  parent->check();
  child->check();
}

// A mapped snapshot file that somebody cuts short while a VM runs from it.
TEST_P(Layers, What_cannot_be_read_any_more_is_an_error_for_whoever_would_copy_it) {
  constexpr Gpa kFrames = 0x80'0000'0000;
  constexpr Gva a = 0x4000'0000;
  constexpr std::uint64_t kBytes = 4 * kBlockSize, kLeft = kBytes / 2;
  for (const auto huge : {Region::Huge::Never, Region::Huge::Always}) {
    const int file = ::memfd_create("snapshot", MFD_CLOEXEC);
    ASSERT_EQ(::ftruncate(file, static_cast<off_t>(kBytes)), 0);
    auto* at = static_cast<std::byte*>(::mmap(nullptr, kBytes, PROT_READ, MAP_PRIVATE, file, 0));
    auto layer = std::make_shared<Layer>();
    layer->data = Bank::adopt(kFrames, {at, kBytes}, [at] { ::munmap(at, kBytes); }, true);
    layer->data_parts = {{kFrames, kFrames + kBytes}};
    World w(GetParam());
    Region region;
    region.start = a, region.end = a + kBytes;
    region.prot = kReadWrite, region.max_prot = kAllProt;
    region.huge = huge;
    const AddressSpace::Stretch all{a, kFrames, kBytes >> kPageShift};
    ASSERT_TRUE(w.as->restore(layer, a + kBytes, {&region, 1}, {&all, 1}));
    ASSERT_EQ(::ftruncate(file, static_cast<off_t>(kLeft)), 0);

    EXPECT_TRUE(w.cpu().store(a, 1));
    const std::uint64_t frames = w.frames();
    EXPECT_EQ(w.cpu().store(a + kLeft, 1), fail(Error::BeyondEnd));
    EXPECT_EQ(w.cpu().store(a + kBytes - 8, 1), fail(Error::BeyondEnd));
    std::byte bytes[16] = {};
    EXPECT_EQ(w.as->write(a + kLeft + 100, bytes), fail(Error::BeyondEnd));
    EXPECT_EQ(w.as->read(a + kLeft + 100, bytes), fail(Error::BeyondEnd));
    EXPECT_EQ(w.frames(), frames) << "a frame was kept for a copy that failed";
    w.check();
    ::close(file);
  }
}

}  // namespace
}  // namespace ramet::mm::test
