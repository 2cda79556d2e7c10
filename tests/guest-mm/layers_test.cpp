// Layers: freezing a VM's memory, growing children from it, copy-on-write, and what becomes of frames and tables when
// the others have gone.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "guest-mm/frozen_memory.hpp"
#include "tests/guest-mm/layers.hpp"

namespace ramet::mm::test {
namespace {

RAMET_FOR_EACH_FORMAT(Layers);

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
  const auto moved = as.remap({.address = a + 10 * kMiB,
                               .old_length = 4 * kMiB,
                               .new_length = 4 * kMiB,
                               .may_move = true,
                               .fixed = true,
                               .new_address = 0x6000'0000'0000});
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
  ASSERT_TRUE(parent->as->map(
      {.address = shared, .length = 64 * 1024, .prot = kReadWrite, .fixed = true, .shared = true, .backing = file}));
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
    const auto at = w->as->remap({.address = from,
                                  .old_length = 0x10000,
                                  .new_length = 0x10000,
                                  .may_move = true,
                                  .fixed = true,
                                  .new_address = to});
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
      ASSERT_TRUE(w->as->map(
          {.address = a + kBlockSize, .length = length, .prot = kReadWrite, .fixed = true, .populate = true}));
      EXPECT_EQ(c.tables_unshared, unshared + 2);  // of PUDs, of PMDs
      // The layer's tables are the parent's, who made them. Shared tables are absent to the processor in stage 2; on
      // arm64 each entry that leads elsewhere is broken first.
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
        const auto first = *child->cpu().load(a + i * kPageSize + 8),
                   second = *child->cpu().load(a + i * kPageSize + 16);
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

// While a freeze waits for a fault that began before it, others find tables that are sealed and still in use.
TEST_P(Layers, A_fault_in_the_middle_of_a_freeze_leaves_the_sealed_tables_alone) {
  Genet g(GetParam(), {.blocks = false, .around_pages = 1});
  auto parent = std::make_unique<World>(GetParam(), World::Options{.vcpus = 4, .config = g.config, .space = g.space});
  auto file = std::make_shared<SlowFile>(*parent->memory, 2 * kPageSize);
  const Gva of_file = 0x2000'0000, a = of_file + 0x10000;
  ASSERT_TRUE(
      parent->as->map({.address = of_file, .length = 2 * kPageSize, .prot = kRead, .fixed = true, .backing = file}));
  parent->map_at(a, 4 * kPageSize);
  ASSERT_TRUE(parent->cpu().store(a, 1));
  ASSERT_TRUE(parent->as->protect(a, kPageSize, kRead));
  ASSERT_TRUE(parent->as->protect(a, kPageSize, kReadWrite));
  file->hold();
  std::thread reader([&] { EXPECT_TRUE(parent->cpu(1).load(of_file)); });
  file->wait_for_reader();
  std::shared_ptr<const FrozenMemory> snapshot;
  std::thread freezer([&] { snapshot = *parent->as->freeze(); });
  std::this_thread::sleep_for(
      std::chrono::milliseconds(20));  // likely it waits by now; if not, the outcome is the same
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

}  // namespace
}  // namespace ramet::mm::test
