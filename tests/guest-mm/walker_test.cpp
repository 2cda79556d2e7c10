// The walker alone, over every entry format: leaves of all three sizes, splitting, moving, counting.
#include <gtest/gtest.h>

#include <algorithm>
#include <future>
#include <type_traits>

#include "guest-mm/page_table.hpp"
#include "tests/guest-mm/world.hpp"

namespace ramet::mm {
namespace {

using test::hardware_walk;
using Level = PageTable::Level;
using State = PageTable::State;

class CountingTlb : public Tlb {
 public:
  void flush(const FlushRequest& r) override {
    ++strict;
    tables.assign(r.tables.begin(), r.tables.end());
    ranges.assign(r.ranges.begin(), r.ranges.end());
    everything = r.everything;
    if (at_flush) at_flush();
  }
  void flush_relaxed(const FlushRequest&) override { ++relaxed; }
  unsigned strict = 0, relaxed = 0;
  std::vector<Gpa> tables;
  std::vector<Range> ranges;
  bool everything = false;
  std::function<void()> at_flush;
};

class Walker : public test::ForEachFormat {
 protected:
  Walker() {
    memory = std::move(*Memory::create({4096 * test::kMiB, 2 * test::kMiB}));
    frames = std::move(*FramePool::create(memory->data()));
    tables = std::move(*TablePool::create(*memory));
    table = std::move(*PageTable::create(GetParam(), *memory, *tables, *frames, tlb, counters));
  }
  // Not analysed inside: the batch that holds the lock is handed out.
  FlushBatch batch() RAMET_ACQUIRE(address_space_lock) RAMET_NO_THREAD_SAFETY_ANALYSIS {
    return FlushBatch(lock, {tlb, *frames, nullptr, counters, true}, *tables, deferred, nullptr);
  }
  void map(Gva va, Level level, Gpa gpa, PageTable::Attributes a = {.write = true, .dirty = true}, unsigned count = 1) {
    FlushBatch b = batch();
    const auto where = table->prepare(va, level, b);
    ASSERT_TRUE(where);
    table->map(*where, va, level, gpa, count, a, b);
    b.commit();
  }
  std::optional<test::Translation> walk(Gva va) {
    return hardware_walk(GetParam(), *memory, table->root(), va, [](Gpa, unsigned, std::uint64_t) {});
  }
  CountingTlb tlb;
  SpaceLock lock;
  DeferredTables deferred;
  Counters counters;
  std::unique_ptr<Memory> memory;
  std::unique_ptr<FramePool> frames;
  std::unique_ptr<TablePool> tables;
  std::unique_ptr<PageTable> table;
  static constexpr Gpa kData = Memory::kDataBase;
};
RAMET_FOR_EACH_FORMAT(Walker);

TEST_P(Walker, Leaves_of_all_three_sizes_translate_as_the_manuals_say) {
  map(0x1000, Level::Pte, kData + 0x5000);
  map(0x4020'0000, Level::Pmd, kData + 0x20'0000);
  map(0x80'0000'0000, Level::Pud, kData + 0x4000'0000, {.execute = true});
  EXPECT_EQ(walk(0x1000), (test::Translation{kData + 0x5000, true, false}));
  EXPECT_EQ(walk(0x4020'0000 + 0x12000), (test::Translation{kData + 0x21'2000, true, false}));
  EXPECT_EQ(walk(0x80'0000'0000 + 0x1234'5000), (test::Translation{kData + 0x4000'0000 + 0x1234'5000, false, true}));
  EXPECT_EQ(walk(0x2000), std::nullopt);
  EXPECT_EQ(table->census(), (PageTable::Census{.pages = 1, .blocks = 1, .giants = 1, .shared_pages = 0}));
  EXPECT_EQ(table->audit(), "");
  EXPECT_EQ(tlb.strict + tlb.relaxed, 0u);
}

TEST_P(Walker, An_empty_slot_is_reported_at_the_level_where_nothing_starts) {
  EXPECT_EQ(table->find(0x1234'5000).level, Level::Pgd);
  map(0x1000, Level::Pte, kData);
  EXPECT_EQ(table->find(0x4000'0000).level, Level::Pud);
  EXPECT_EQ(table->find(0x20'0000).level, Level::Pmd);
  EXPECT_EQ(table->find(0x2000).level, Level::Pte);
}

TEST_P(Walker, A_giant_leaf_splits_only_along_the_way_to_the_boundary) {
  map(0x4000'0000, Level::Pud, kData + 0x4000'0000);
  const auto tables_before = tables->used();
  FlushBatch b = batch();
  ASSERT_TRUE(table->split(0x4000'0000 + 0x20'3000, b));
  b.commit();
  EXPECT_EQ(tables->used(), tables_before + 2);  // 511 blocks and 512 pages
  EXPECT_EQ(table->census(), (PageTable::Census{.pages = 512, .blocks = 511, .giants = 0, .shared_pages = 0}));
  EXPECT_EQ(table->find(0x4000'0000).level, Level::Pmd);
  EXPECT_EQ(table->find(0x4020'3000).level, Level::Pte);
  for (const Gva at : {0x0ull, 0x20'2000ull, 0x20'3000ull, 0x3fff'f000ull}) {
    EXPECT_EQ(walk(0x4000'0000 + at), (test::Translation{kData + 0x4000'0000 + at, true, false}));
  }
  EXPECT_EQ(counters.split_pud, 1u);
  EXPECT_EQ(counters.split_pmd, 1u);
  EXPECT_EQ(table->audit(), "");
}

TEST_P(Walker, A_split_breaks_before_it_makes_where_the_format_says_so) {
  map(0x4000'0000, Level::Pmd, kData);
  bool was_broken = false;
  tlb.at_flush = [&] { was_broken = table->find(0x4000'0000).state == State::Changing; };
  FlushBatch b = batch();
  ASSERT_TRUE(table->split(0x4000'1000, b));
  b.commit();
  EXPECT_EQ(was_broken, GetParam() != Format::X86_64Stage1);
  EXPECT_EQ(tlb.strict, 1u);
}

TEST_P(Walker, A_boundary_between_leaves_splits_nothing) {
  map(0x4000'0000, Level::Pmd, kData);
  FlushBatch b = batch();
  for (const Gva at : {0x4000'0000ull, 0x4020'0000ull, 0x9000'0000ull}) ASSERT_TRUE(table->split(at, b));
  EXPECT_FALSE(b.pending());
  EXPECT_EQ(counters.split_pmd, 0u);
}

TEST_P(Walker, Unmapping_lists_changed_and_freed_tables_once_and_gives_back_the_frames) {
  const auto before = tables->used();
  const auto run = frames->allocate(4, Fill::Zero);
  map(0x4000'0000, Level::Pte, run->gpa, {}, 16);
  EXPECT_EQ(tables->used(), before + 3);
  FlushBatch b = batch();
  table->unmap(0x4000'0000, 0x4000'0000 + 8 * kPageSize, b);
  b.commit();
  EXPECT_EQ(tlb.tables.size(), 1u);  // the page of PTEs, once for eight of them
  EXPECT_EQ(tlb.ranges.size(), 1u);
  EXPECT_EQ(frames->used(), 8u);
  table->unmap(0x4000'0000, 0x4000'0000 + 16 * kPageSize, b);
  b.commit();
  EXPECT_EQ(tlb.tables.size(), 4u);  // PTEs, PMDs, PUDs and the root lost something
  EXPECT_EQ(tables->used(), before);
  EXPECT_EQ(frames->used(), 0u);
}

TEST_P(Walker, Frames_and_tables_are_released_only_after_the_flush) {
  const auto run = frames->allocate(0, Fill::Zero);
  map(0x4000'0000, Level::Pte, run->gpa);
  const auto used = tables->used();
  tlb.at_flush = [&] {
    EXPECT_EQ(frames->used(), 1u);
    EXPECT_EQ(tables->used(), used);
  };
  FlushBatch b = batch();
  table->unmap(0x4000'0000, 0x4000'1000, b);
  b.commit();
  EXPECT_EQ(tlb.strict, 1u);
  EXPECT_EQ(frames->used(), 0u);
}

// What a batch takes is neither lost nor done twice, whichever way the operation ends.
static_assert(!std::is_move_constructible_v<FlushBatch> && !std::is_move_constructible_v<SpeculativeFlush>);
static_assert(!std::is_constructible_v<EntryFlush, FlushParts> &&
              !std::is_convertible_v<SpeculativeFlush&, FlushBatch&>);

TEST_P(Walker, A_batch_that_nobody_commits_is_carried_out_at_its_end_under_the_lock) {
  const auto run = frames->allocate(0, Fill::Zero);
  map(0x4000'0000, Level::Pte, run->gpa);
  const auto used = tables->used();
  const auto lock_is_free = [&] {
    return std::async(std::launch::async, [&] { return lock.try_lock() && (lock.unlock(), true); }).get();
  };
  struct Waiting : Backing {  // as one whose destructor waits for the machine, which waits for the lock
    std::uint64_t size() const override { return 0; }
    Result<> read(std::uint64_t, std::span<std::byte>) override { return {}; }
    ~Waiting() override { gone(); }
    std::function<void()> gone;
  };
  auto backing = std::make_shared<Waiting>();
  unsigned let_go = 0;
  backing->gone = [&] {
    EXPECT_EQ(tlb.strict, 1u);
    EXPECT_EQ(frames->used(), 0u);
    EXPECT_TRUE(lock_is_free());
    ++let_go;
  };
  tlb.at_flush = [&] {
    EXPECT_FALSE(lock_is_free());
    EXPECT_EQ(frames->used(), 1u);
  };
  {
    FlushBatch b = batch();
    EXPECT_FALSE(lock_is_free());
    b.keep(std::move(backing));
    table->unmap(0x4000'0000, 0x4000'1000, b);
  }
  EXPECT_EQ(let_go, 1u);
  EXPECT_EQ(tlb.strict, 1u);
  EXPECT_EQ(tables->used(), used - 3);
  EXPECT_EQ(counters.tables_freed, 3u);
}

TEST_P(Walker, What_a_fault_without_the_lock_changed_is_flushed_at_its_end_and_takes_no_deferred_table_along) {
  map(0x1000, Level::Pte, kData, {.accessed = true});
  deferred.merged.push_back(0x7000);
  deferred.changed.push_back(0x8000);
  for (const bool relaxed : {true, false}) {
    SpeculativeFlush flush({tlb, *frames, nullptr, counters, relaxed});
    auto next = table->find(0x1000).attributes;
    next.write = next.dirty = relaxed;
    next.execute = !relaxed;
    if (!relaxed) next.write = next.dirty = true;
    EXPECT_EQ(table->upgrade(table->find(0x1000), next, {}, flush), PageTable::Published::Done);
    EXPECT_TRUE(flush.pending());
  }
  EXPECT_EQ(tlb.relaxed, 1u);
  EXPECT_EQ(tlb.strict, 1u);
  EXPECT_EQ(tlb.tables.size(), 1u);
  EXPECT_EQ(deferred.merged.size() + deferred.changed.size(), 2u);
  deferred = {};
}

TEST_P(Walker, Permission_taken_is_flushed_strictly_and_permission_given_relaxedly) {
  map(0x1000, Level::Pte, kData, {.write = false});
  const auto set = [&](PageTable::Attributes a) {
    FlushBatch b = batch();
    table->update(0x1000, 0x2000, [&](const PageTable::Leaf&) { return PageTable::Change{State::Present, a}; }, b);
    b.commit();
  };
  set({.write = true, .dirty = true});
  EXPECT_EQ(tlb.strict, 0u);
  EXPECT_EQ(tlb.relaxed, 1u);
  set({.write = true, .dirty = true});
  EXPECT_EQ(tlb.strict + tlb.relaxed, 1u);  // nothing changed
  set({.write = false, .dirty = true});
  EXPECT_EQ(tlb.strict, 1u);
  set({.write = true, .execute = false, .dirty = true});
  set({.write = false, .execute = true, .dirty = true});  // one taken, one given
  EXPECT_EQ(tlb.strict, 2u);
}

// A copy is made before the table is locked: by then another thread may have copied the page, or taken it away.
TEST_P(Walker, Leaves_that_changed_since_they_were_seen_are_not_replaced) {
  const PageTable::Attributes read_only = {.write = false, .dirty = true}, writable = {.write = true, .dirty = true};
  const auto update = [&](Gva page, PageTable::Change change) {
    FlushBatch b = batch();
    table->update(page, page + kPageSize, [&](const PageTable::Leaf&) { return change; }, b);
    b.commit();
  };
  const auto replace = [&](const PageTable::Leaf& seen) {
    const PageTable::Replacement all[] = {{table->find(0x1000), kData + 0x8000, writable},
                                          {seen, kData + 0x9000, writable}};
    FlushBatch b = batch();
    const auto how = table->replace_leaves(all, {}, b);
    b.commit();
    return how;
  };
  map(0x1000, Level::Pte, kData + 0x1000, read_only);
  map(0x2000, Level::Pte, kData + 0x2000, read_only);
  PageTable::Leaf moved = table->find(0x2000);
  moved.address = kData + 0x3000;  // what another one's copy looks like
  EXPECT_EQ(replace(moved), PageTable::Published::Changed);
  const PageTable::Leaf seen = table->find(0x2000);
  update(0x2000, {State::Present, writable});
  EXPECT_EQ(replace(seen), PageTable::Published::Changed);
  update(0x2000, {State::Kept, read_only});
  EXPECT_EQ(replace(seen), PageTable::Published::Changed);
  EXPECT_EQ(walk(0x1000), (test::Translation{kData + 0x1000, false, false}));  // nor are the others
  update(0x2000, {State::Present, read_only});
  EXPECT_EQ(replace(seen), PageTable::Published::Done);
  EXPECT_EQ(walk(0x1000), (test::Translation{kData + 0x8000, true, false}));
  EXPECT_EQ(walk(0x2000), (test::Translation{kData + 0x9000, true, false}));
  EXPECT_EQ(table->audit(), "");
}

TEST_P(Walker, What_the_hardware_sets_while_a_leaf_changes_is_not_lost) {
  // Only x86-64's sets dirty bits.
  map(0x1000, Level::Pte, kData, {.write = true, .accessed = false, .dirty = GetParam() != Format::X86_64Stage1});
  unsigned looked = 0;
  FlushBatch b = batch();
  table->update(
      0x1000, 0x2000,
      [&](const PageTable::Leaf& old) {
        if (++looked == 1) {
          (void)hardware_walk(
              GetParam(), *memory, table->root(), 0x1000, [](Gpa, unsigned, std::uint64_t) {},
              test::Sets::AccessedAndDirty);
        }
        PageTable::Attributes next = old.attributes;
        next.write = false;
        return PageTable::Change{State::Present, next};
      },
      b);
  b.commit();
  EXPECT_EQ(looked, 2u);
  EXPECT_TRUE(table->find(0x1000).attributes.accessed);
  EXPECT_TRUE(table->find(0x1000).attributes.dirty);
  EXPECT_EQ(tlb.strict, 1u);  // it may be written through what a processor holds
}

TEST_P(Walker, A_kept_leaf_remembers_its_frame_at_every_level) {
  for (const Level level : {Level::Pte, Level::Pmd, Level::Pud}) {
    const Gva va = 0x80'0000'0000ull * (1 + unsigned(level));
    map(va, level, kData + 0x4000'0000);
    FlushBatch b = batch();
    table->update(
        va, va + arch::span_of(level),
        [](const PageTable::Leaf& l) { return PageTable::Change{State::Kept, l.attributes}; }, b);
    b.commit();
    EXPECT_EQ(walk(va), std::nullopt);
    const auto leaf = table->find(va);
    EXPECT_EQ(leaf.state, State::Kept);
    EXPECT_EQ(leaf.level, level);
    EXPECT_EQ(leaf.address, kData + 0x4000'0000);
    table->update(
        va, va + arch::span_of(level),
        [](const PageTable::Leaf& l) { return PageTable::Change{State::Present, l.attributes}; }, b);
    b.commit();
    EXPECT_EQ(walk(va), (test::Translation{kData + 0x4000'0000, true, false}));
  }
  EXPECT_EQ(tlb.strict, 3u);
  EXPECT_EQ(tlb.relaxed, 0u);  // absent to present: nothing can be cached
  EXPECT_EQ(table->audit(), "");
}

TEST_P(Walker, A_kept_block_can_be_split) {
  map(0x4000'0000, Level::Pmd, kData + 0x20'0000);
  FlushBatch b = batch();
  table->update(
      0x4000'0000, 0x4020'0000, [](const PageTable::Leaf& l) { return PageTable::Change{State::Kept, l.attributes}; },
      b);
  ASSERT_TRUE(table->split(0x4000'3000, b));
  b.commit();
  EXPECT_EQ(walk(0x4000'3000), std::nullopt);
  EXPECT_EQ(table->find(0x4000'3000).address, kData + 0x20'3000);
  EXPECT_EQ(table->find(0x4000'3000).state, State::Kept);
  EXPECT_EQ(table->audit(), "");
}

TEST_P(Walker, An_aligned_move_takes_blocks_and_whole_tables_along) {
  map(0x4000'0000, Level::Pmd, kData);
  map(0x4020'0000, Level::Pte, kData + 0x20'0000, {}, 512);
  const auto before = tables->used();
  FlushBatch b = batch();
  ASSERT_TRUE(table->move(0x4000'0000, 0x4040'0000, 0x40'0000, b));
  b.commit();
  EXPECT_EQ(tables->used(), before);  // not one more: the page of PTEs itself moved
  EXPECT_EQ(walk(0x4000'0000), std::nullopt);
  EXPECT_EQ(walk(0x4020'1000), std::nullopt);
  EXPECT_EQ(walk(0x4040'1000)->gpa, kData + 0x1000);
  EXPECT_EQ(walk(0x4060'1000)->gpa, kData + 0x20'1000);
  EXPECT_EQ(counters.split_pmd, 0u);
  EXPECT_EQ(table->audit(), "");
}

TEST_P(Walker, A_move_by_pages_splits_blocks_and_keeps_every_frame) {
  map(0x4000'0000, Level::Pmd, kData);
  FlushBatch b = batch();
  ASSERT_TRUE(table->move(0x4000'0000, 0x8000'3000, 0x20'0000, b));
  b.commit();
  for (Gva at = 0; at < 0x20'0000; at += kPageSize) {
    ASSERT_EQ(walk(0x8000'3000 + at)->gpa, kData + at);
    ASSERT_EQ(walk(0x4000'0000 + at), std::nullopt);
  }
  EXPECT_EQ(table->census(), (PageTable::Census{.pages = 512, .blocks = 0, .giants = 0, .shared_pages = 0}));
  EXPECT_EQ(table->audit(), "");
}

TEST_P(Walker, A_move_without_tables_to_be_had_leaves_everything_where_it_was) {
  map(0x4000'0000, Level::Pte, kData, {}, 16);
  std::vector<Gpa> taken;
  {
    SpaceGuard held(lock);
    while (const auto t = tables->allocate()) taken.push_back(*t);
  }
  for (int left = 0; left < 3; ++left) {  // a PUD, a PMD and a PTE table are needed
    const auto used = tables->used();
    FlushBatch b = batch();
    EXPECT_EQ(table->move(0x4000'0000, 0x80'0000'0000, 0x1'0000, b), fail(Error::NoMemory));
    b.commit();
    EXPECT_EQ(walk(0x4000'f000)->gpa, kData + 0xf000);
    EXPECT_EQ(tables->used(), used);
    EXPECT_EQ(table->audit(), "");
    tables->free(taken.back());
    taken.pop_back();
  }
  FlushBatch b = batch();
  EXPECT_TRUE(table->move(0x4000'0000, 0x80'0000'0000, 0x1'0000, b));
  b.commit();
  EXPECT_EQ(walk(0x80'0000'f000)->gpa, kData + 0xf000);
}

TEST_P(Walker, Tables_without_entries_are_in_nobodys_way) {
  map(0x4000'0000, Level::Pte, kData, {}, 512);
  const auto used = tables->used();
  FlushBatch b = batch();
  ASSERT_TRUE(table->prepare(0x4020'0000, Level::Pte, b));      // in the range that moves
  ASSERT_TRUE(table->prepare(0x80'4000'0000, Level::Pte, b));   // and where it goes to
  ASSERT_TRUE(table->move(0x4000'0000, 0x80'4000'0000, 0x40'0000, b));
  b.commit();
  EXPECT_EQ(walk(0x80'4000'5000)->gpa, kData + 0x5000);
  EXPECT_EQ(tables->used(), used);
  EXPECT_EQ(table->audit(), "");
}

TEST_P(Walker, A_freed_table_is_told_of_even_if_no_entry_in_it_was_present_any_more) {
  map(0x4000'0000, Level::Pte, kData);
  FlushBatch b = batch();
  table->update(
      0x4000'0000, 0x4000'1000, [](const PageTable::Leaf& l) { return PageTable::Change{State::Kept, l.attributes}; },
      b);
  b.commit();
  const Gpa ptes = tlb.tables.at(0);
  table->unmap(0x4000'0000, 0x4000'1000, b);
  b.commit();
  EXPECT_EQ(tlb.tables.size(), 4u);
  EXPECT_TRUE(std::ranges::find(tlb.tables, ptes) != tlb.tables.end());
}

TEST_P(Walker, Visiting_skips_what_is_absent_however_long) {
  map(0x1000, Level::Pte, kData);
  map(0x7fff'ffe0'0000, Level::Pmd, kData + 0x20'0000);
  std::vector<Gva> seen;
  table->visit(0, 0x8000'0000'0000, [&](const PageTable::Leaf& l) { seen.push_back(l.start); });
  EXPECT_EQ(seen, (std::vector<Gva>{0x1000, 0x7fff'ffe0'0000}));
}

TEST_P(Walker, A_batch_of_many_ranges_becomes_a_flush_of_everything) {
  map(0x4000'0000, Level::Pte, kData, {}, 512);
  FlushBatch b = batch();
  for (unsigned i = 0; i < 512; i += 2) {
    table->update(
        0x4000'0000 + i * kPageSize, 0x4000'0000 + (i + 1) * kPageSize,
        [](const PageTable::Leaf& l) { return PageTable::Change{State::Kept, l.attributes}; }, b);
  }
  b.commit();
  EXPECT_EQ(tlb.strict, 1u);
  EXPECT_TRUE(tlb.everything);
  EXPECT_TRUE(tlb.ranges.empty());
  EXPECT_EQ(tlb.tables.size(), 1u);
}

}  // namespace
}  // namespace ramet::mm
