// Migration: contents, permissions and blocks stay, frames do not; whoever runs meanwhile notices nothing. And what it
// costs to have code fetched afterwards, by the policy.
#include <cstring>
#include <map>
#include <set>
#include <thread>

#include "guest-mm/pin.hpp"
#include "tests/guest-mm/world.hpp"

namespace ramet::mm {
namespace {

using namespace test;
using Request = AddressSpace::MigrateRequest;
using Policy = AddressSpace::ExecSync;
using Term = AddressSpace::PinTerm;

class Migration : public ForEachFormat {
 protected:
  static Gpa frame(World& w, Gva at) {
    const auto t = w.as->translate(at, 0);
    return t ? t->frame + (at - t->start) : 0;
  }
  static AddressSpace::Migrated migrate(World& w, Gva at, std::uint64_t length,
                                        MoveReason reason = MoveReason::Explicit, std::optional<unsigned> node = {}) {
    const auto done = w.as->migrate({.address = at, .length = length, .reason = reason, .node = node});
    EXPECT_TRUE(done);
    return done.value_or(AddressSpace::Migrated());
  }
  static Gva fill(World& w, std::uint64_t pages, Prot prot = kReadWrite) {
    const Gva at = w.map(pages * kPageSize);
    for (std::uint64_t i = 0; i < pages; ++i) EXPECT_TRUE(w.cpu().store(at + i * kPageSize, i + 1));
    EXPECT_TRUE(w.as->protect(at, pages * kPageSize, prot));
    return at;
  }
};

TEST_P(Migration, MovesFramesAndNothingElse) {
  World w(GetParam(), {.config = {.blocks = false}});
  constexpr std::uint64_t kPages = 700;  // of two tables or three
  for (const Prot prot : {kReadWrite, kRead, kReadExec}) {
    const Gva at = fill(w, kPages, prot);
    std::map<Gva, Gpa> before;
    for (std::uint64_t i = 0; i < kPages; ++i) before[at + i * kPageSize] = frame(w, at + i * kPageSize);
    const auto done = migrate(w, at, kPages * kPageSize);
    EXPECT_EQ(done.moved, kPages);
    EXPECT_EQ(done.pinned + done.shared + done.failed, 0u);
    for (const auto& [page, old] : before) {
      EXPECT_NE(frame(w, page), old);
      EXPECT_EQ(w.cpu(1).load(page), (page - at) / kPageSize + 1);
      if (prot == kReadExec) {
        EXPECT_EQ(w.cpu(1).fetch(page), (page - at) / kPageSize + 1);
      }
    }
    const auto stored = w.cpu().store(at, 7);
    if (prot == kReadWrite) {
      EXPECT_TRUE(stored);
    } else {
      EXPECT_EQ(stored.error(), Error::NotPermitted);
    }
    w.check();
  }
  EXPECT_EQ(w.as->counters().migrated[0], 3 * kPages);
  w.check_empty();
}

TEST_P(Migration, OfAPartTakesNoMore) {
  World w(GetParam());
  const Gva at = align_up(w.map(4 * kBlockSize), kBlockSize);
  ASSERT_TRUE(w.cpu().store(at, 1));
  ASSERT_TRUE(w.cpu().store(at + kBlockSize - 8, 2));
  const Gpa first = frame(w, at), middle = frame(w, at + kBlockSize / 2);
  EXPECT_EQ(migrate(w, at + kBlockSize / 2, kPageSize).moved, 1u);
  EXPECT_EQ(frame(w, at), first);
  EXPECT_NE(frame(w, at + kBlockSize / 2), middle);
  EXPECT_EQ(w.cpu().load(at + kBlockSize - 8), 2u);
  EXPECT_EQ(w.as->migrate({.address = at + 1, .length = kPageSize}).error(), Error::Invalid);
  EXPECT_EQ(w.as->migrate({.address = at, .length = ~0ull}).error(), Error::Invalid);
  EXPECT_EQ(w.as->migrate({.address = at, .length = kPageSize, .node = 2}).error(), Error::Invalid);
  EXPECT_EQ(migrate(w, at + 3 * kBlockSize / 2, 0).moved, 0u);
  w.check();
}

TEST_P(Migration, BlocksStayBlocks) {
  World w(GetParam());
  const Gva at = align_up(w.map(4 * kBlockSize), kBlockSize);
  ASSERT_TRUE(w.as->advise(at, 2 * kBlockSize, Advice::Huge));
  for (const Gva block : {at, at + kBlockSize}) {
    ASSERT_TRUE(w.cpu().store(block, block));
    ASSERT_TRUE(w.cpu().store(block + kBlockSize - 8, ~block));
  }
  const std::uint64_t blocks = w.as->usage().data_blocks_2m;
  const Gpa old = frame(w, at);
  EXPECT_EQ(migrate(w, at, 2 * kBlockSize).moved, 1024u);
  EXPECT_NE(frame(w, at), old);
  EXPECT_EQ(w.as->usage().data_blocks_2m, blocks);
  for (const Gva block : {at, at + kBlockSize}) {
    EXPECT_EQ(w.cpu(1).load(block), block);
    EXPECT_EQ(w.cpu(1).load(block + kBlockSize - 8), ~block);
  }
  w.check();
}

TEST_P(Migration, SmallPagesBecomeABlock) {
  for (const MoveReason reason : {MoveReason::Compaction, MoveReason::Contiguous}) {
    World w(GetParam());
    const Gva at = align_up(w.map(4 * kBlockSize), kBlockSize);
    // Frames in no order: by turns with others'.
    const Gva other = w.map(kBlockSize);
    ASSERT_TRUE(w.as->advise(at, kBlockSize, Advice::NoHuge));
    for (Gva page = 0; page < kBlockSize; page += kPageSize) {
      ASSERT_TRUE(w.cpu().store(at + page, page));
      ASSERT_TRUE(w.cpu().store(other + page, 1));
    }
    ASSERT_TRUE(w.as->advise(at, kBlockSize, Advice::Huge));
    const std::uint64_t blocks = w.as->usage().data_blocks_2m;
    EXPECT_EQ(migrate(w, at, kBlockSize, reason).moved, 512u);
    EXPECT_EQ(w.as->usage().data_blocks_2m, blocks + 1);
    for (Gva page = 0; page < kBlockSize; page += kPageSize) ASSERT_EQ(w.cpu(1).load(at + page), page);
    w.check();
    // With a hole it stays small pages.
    ASSERT_TRUE(w.as->unmap(at + kPageSize, kPageSize));
    EXPECT_EQ(migrate(w, at, kBlockSize, reason).failed, 511u);
    w.check();
  }
}

TEST_P(Migration, WhatIsPinnedOrSharedStays) {
  const Genet g(GetParam(), {.blocks = false});
  const auto parent = g.make();
  const Gva at = fill(*parent, 8);
  auto device = parent->as->pin(at + 2 * kPageSize, kPageSize, Access::Write, Term::Short);
  ASSERT_TRUE(device);
  auto longer = parent->as->pin(at + 3 * kPageSize, kPageSize, Access::Write, Term::Long);
  ASSERT_TRUE(longer);
  const Gpa pinned = frame(*parent, at + 2 * kPageSize);
  auto done = migrate(*parent, at, 8 * kPageSize);
  EXPECT_EQ(done.moved, 6u);
  EXPECT_EQ(done.pinned, 2u);
  EXPECT_EQ(frame(*parent, at + 2 * kPageSize), pinned);
  const std::uint64_t word = 99;
  std::memcpy(as_device(device->ranges()[0]), &word, sizeof word);
  EXPECT_EQ(parent->cpu().load(at + 2 * kPageSize), 99u);
  ASSERT_TRUE(parent->cpu().store(at + 2 * kPageSize, 100));
  EXPECT_EQ(*reinterpret_cast<std::uint64_t*>(as_device(device->ranges()[0])), 100u);
  *device = Pin(), *longer = Pin();
  const auto child = g.child(*parent->as->freeze());
  done = migrate(*child, at, 8 * kPageSize);
  EXPECT_EQ(done.moved, 0u);
  EXPECT_EQ(done.shared, 8u);
  ASSERT_TRUE(child->cpu().store(at, 5));
  EXPECT_EQ(migrate(*child, at, 8 * kPageSize).moved, 1u);
  EXPECT_EQ(parent->cpu().load(at), 1u);
  EXPECT_EQ(child->cpu().load(at), 5u);
  ASSERT_TRUE(parent->cpu().store(at + kPageSize, 6));  // its table is its own again, the frames beside it are not
  done = migrate(*parent, at, 8 * kPageSize);
  EXPECT_EQ(done.moved, 1u);
  EXPECT_EQ(done.shared + done.pinned, 7u);  // one is in the pin bank since it was pinned
  const auto file = std::make_shared<TestFile>(*parent->memory, 4 * kPageSize);
  const auto shared = parent->as->map({.length = 4 * kPageSize, .prot = kRead, .shared = true, .backing = file});
  ASSERT_TRUE(shared);
  EXPECT_EQ(parent->cpu().load(*shared), TestFile::word_at(0));
  EXPECT_EQ(migrate(*parent, *shared, 4 * kPageSize).moved, 0u);
  parent->check();
  child->check();
}

TEST_P(Migration, ToANode) {
  World w(GetParam(), {.config = {.blocks = false}});
  const Gva at = fill(w, 600);
  for (const unsigned node : {1u, 0u, 1u}) {
    std::uint64_t there = 0;
    for (Gva page = at; page < at + 600 * kPageSize; page += kPageSize) there += w.as->node_of(page) == node;
    EXPECT_EQ(migrate(w, at, 600 * kPageSize, MoveReason::Numa, node).moved, 600 - there);
    for (Gva page = at; page < at + 600 * kPageSize; page += kPageSize) {
      ASSERT_EQ(w.as->node_of(page), node);
      ASSERT_EQ(w.cpu().load(page), (page - at) / kPageSize + 1);
    }
  }
  EXPECT_EQ(w.as->node_of(0x1000), std::nullopt);
  w.check_empty();
}

TEST_P(Migration, WhatIsBoundComesFromThatNode) {
  World w(GetParam());
  for (const unsigned node : {0u, 1u}) {
    const Gva at = align_up(w.map(4 * kBlockSize), kBlockSize);
    ASSERT_TRUE(w.as->bind(at, kBlockSize, node));
    for (Gva page = at; page < at + kBlockSize; page += 16 * kPageSize) {
      ASSERT_TRUE(w.cpu().store(page, page));
      ASSERT_EQ(w.as->node_of(page), node);
    }
    EXPECT_EQ(w.as->find_region(at)->node, node);
    EXPECT_EQ(w.as->find_region(at + kBlockSize)->node, std::nullopt);
    ASSERT_TRUE(w.as->bind(at, kBlockSize, std::nullopt));
  }
  const Gva part = align_up(w.map(4 * kBlockSize), kBlockSize);  // of a block
  ASSERT_TRUE(w.cpu().store(part, 1));
  ASSERT_TRUE(w.as->bind(part + kPageSize, kPageSize, 1));
  EXPECT_EQ(w.cpu().load(part), 1u);
  w.check();
  EXPECT_EQ(w.as->bind(0x100000, kPageSize, 0).error(), Error::NotMapped);
  EXPECT_EQ(w.as->bind(w.map(kPageSize), kPageSize, 2).error(), Error::Invalid);
  w.check_empty();
}

TEST_P(Migration, FramesWhoseMemoryFailsAreGivenToNobody) {
  const Genet g(GetParam());
  const auto w = g.make();
  const Gva block = align_up(w->map(4 * kBlockSize), kBlockSize), small = fill(*w, 8);
  ASSERT_TRUE(w->cpu().store(block + 5 * kPageSize, 55));
  std::set<Gpa> bad;
  for (const Gva at : {block + 5 * kPageSize, small, small + kPageSize}) {
    bad.insert(frame(*w, at));
    EXPECT_EQ(migrate(*w, at, kPageSize, MoveReason::MemoryFailure).moved, 1u);
    EXPECT_FALSE(bad.contains(frame(*w, at)));
  }
  EXPECT_EQ(w->as->usage().quarantined_pages, 3u);
  EXPECT_EQ(w->cpu().load(block + 5 * kPageSize), 55u);
  EXPECT_EQ(w->cpu().load(small), 1u);
  { const auto child = g.child(*w->as->freeze()); }  // blocks with such frames are sealed, and opened again
  w->check();
  const Gva rest = w->map(w->as->limit_bytes());
  std::uint64_t seen = 0;
  for (Gva at = rest; w->cpu().store(at, 1); at += kPageSize, ++seen) ASSERT_FALSE(bad.contains(frame(*w, at)));
  EXPECT_GT(seen, 0u);
  EXPECT_EQ(w->as->usage().quarantined_pages, 3u);
  w->check_empty();
}

TEST_P(Migration, WithoutMemoryChangesNothing) {
  World w(GetParam(), {.data = 4 * kMiB, .config = {.blocks = false, .speculative_frames = 1024}});
  const std::uint64_t pages = w.as->limit_bytes() / kPageSize - 2;
  const Gva at = fill(w, pages);
  const auto done = migrate(w, at, pages * kPageSize);
  EXPECT_EQ(done.moved + done.failed, pages);
  EXPECT_GT(done.failed, 0u);
  for (std::uint64_t i = 0; i < pages; ++i) ASSERT_EQ(w.cpu().load(at + i * kPageSize), i + 1);
  for (std::uint64_t i = 0; i < pages; ++i) ASSERT_TRUE(w.cpu().store(at + i * kPageSize, i));
  w.check_empty();
}

// Threads count, fetch and pin while everything moves: no store is lost, no fetch sees old code.
TEST_P(Migration, WhileOthersWriteFetchAndPin) {
  World w(GetParam(), {.vcpus = 4, .config = {.exec_sync = Policy::Lazy}});
  constexpr std::uint64_t kPages = 16;
  const unsigned rounds = scaled(150, 30);
  const Gva at = fill(w, kPages), code = fill(w, kPages, kReadExec);
  std::atomic<bool> over{false};
  std::atomic<std::uint64_t> stores{0};
  std::vector<std::thread> threads;
  for (unsigned i = 1; i < 3; ++i)
    threads.emplace_back([&, i] {  // each counts in words of its own
      std::uint64_t n = 1;
      for (; !over; ++n)
        for (Gva page = at; page < at + kPages * kPageSize; page += kPageSize) {
          EXPECT_EQ(w.cpu(i).load(page + 8 * i).value_or(~0ull), n - 1);
          EXPECT_TRUE(w.cpu(i).store(page + 8 * i, n));
          EXPECT_EQ(w.cpu(i).fetch(code + (page - at)), (page - at) / kPageSize + 1);
          ++stores;
        }
    });
  threads.emplace_back([&] {
    for (std::uint64_t n = 1; !over; ++n) {
      auto pin = w.as->pin(at + n % kPages * kPageSize, kPageSize, Access::Write, Term::Short);
      EXPECT_TRUE(pin);
      if (!pin) continue;
      for (unsigned turn = 0; turn < n % 4; ++turn) std::this_thread::yield();  // others move meanwhile what they may
      std::byte* word = as_device(pin->ranges()[0], 8 * 3);
      std::atomic_ref<std::uint64_t>(*reinterpret_cast<std::uint64_t*>(word)).store(n);
      EXPECT_EQ(w.cpu(3).load(at + n % kPages * kPageSize + 8 * 3), n);
    }
  });
  std::uint64_t moved = 0;
  for (std::uint64_t round = 0; round < rounds || stores < 40 * kPages; ++round) {
    for (const auto& done :
         {migrate(w, at, kPages * kPageSize), migrate(w, code, kPages * kPageSize, MoveReason::Numa, round % 2)}) {
      moved += done.moved;
      EXPECT_EQ(done.failed, 0u) << "faults without the lock changed entries meanwhile";
    }
    std::this_thread::yield();
  }
  over = true;
  for (auto& t : threads) t.join();
  EXPECT_GT(moved, 0u);
  w.check();
}

RAMET_FOR_EACH_FORMAT(Migration);

// A processor on which a page's copy takes kCopy, its sync kSync, and a fetch's fault what the test says: M pages move
// again and again, N of them run.
class MigratedCode : public Migration {
 protected:
  static constexpr std::uint64_t kPages = 256, kSync = 1000, kCopy = 1000;
  struct Cost {
    std::uint64_t time = 0, syncs = 0, faults = 0;
  };
  static Cost of(Policy policy, std::uint64_t run, std::uint64_t fault_cost, unsigned rounds) {
    World w(GetParam(), {.config = {.blocks = false, .exec_sync = policy, .exit_cost = fault_cost, .around_pages = 1}});
    w.tlb.sync_cost = kSync, w.tlb.fault_cost = fault_cost;
    const Gva at = fill(w, kPages, kReadExec);
    for (std::uint64_t i = 0; i < kPages; ++i) EXPECT_EQ(w.cpu().fetch(at + i * kPageSize), i + 1);
    const Counters& c = w.as->counters();
    const std::uint64_t began = w.tlb.clock, syncs = c.exec_syncs, granted = c.exec_granted;
    for (unsigned round = 0; round < rounds; ++round) {
      EXPECT_EQ(migrate(w, at, kPages * kPageSize, MoveReason::Numa).moved, kPages);
      w.tlb.clock += kPages * kCopy;
      // Not the first ones every time, nor the same share of what a probe would meet.
      for (std::uint64_t i = 0; i < run; ++i) {
        const std::uint64_t page = (i * 7 + round) % kPages;
        EXPECT_EQ(w.cpu().fetch(at + page * kPageSize), page + 1);
      }
    }
    w.check();
    return {w.tlb.clock - began, c.exec_syncs - syncs, c.exec_granted - granted};
  }
};

TEST_P(MigratedCode, IsSynchronisedAtOnceOrWhenItRuns) {
  const Cost eager = of(Policy::Eager, 100, 500, 1), lazy = of(Policy::Lazy, 100, 500, 1);
  EXPECT_EQ(eager.syncs, kPages);
  EXPECT_EQ(eager.time, kPages * (kCopy + kSync));
  EXPECT_EQ(lazy.syncs, 100u);
  EXPECT_EQ(lazy.faults, 100u);
  EXPECT_EQ(lazy.time, kPages * kCopy + 100 * (kSync + 500));
}

// Adaptive costs at most a twentieth more than the better of both, over forty migrations that begin with no knowledge.
TEST_P(MigratedCode, AdaptiveIsAsGoodAsTheBetter) {
  constexpr unsigned kRounds = 40;
  const unsigned step = scaled(1, 3);  // of the prices and shares
  constexpr std::uint64_t kFaults[] = {500, 100, 1000, 3000},
                          kRun[] = {0, kPages / 8, kPages / 4, kPages / 2, 3 * kPages / 4, kPages};
  for (unsigned price = 0; price < std::size(kFaults); price += step) {
    for (unsigned share = 0; share < std::size(kRun); share += step) {
      const std::uint64_t fault_cost = kFaults[price], run = kRun[share];
      const Cost eager = of(Policy::Eager, run, fault_cost, kRounds), lazy = of(Policy::Lazy, run, fault_cost, kRounds),
                 adaptive = of(Policy::Adaptive, run, fault_cost, kRounds);
      EXPECT_LE(static_cast<double>(adaptive.time), 1.05 * static_cast<double>(std::min(eager.time, lazy.time)))
          << run << " of " << kPages << " run, a fault takes " << fault_cost << ": eager " << eager.time << ", lazy "
          << lazy.time;
      EXPECT_LE(adaptive.syncs, eager.syncs);
    }
  }
}

// Code that ran after each migration, and from some day on does not, and the other way round.
TEST_P(MigratedCode, AdaptiveFollowsWhatChanges) {
  World w(GetParam(),
          {.config = {.blocks = false, .exec_sync = Policy::Adaptive, .exit_cost = 500, .around_pages = 1}});
  w.tlb.sync_cost = kSync, w.tlb.fault_cost = 500;
  const Gva at = fill(w, kPages, kReadExec);
  const Counters& c = w.as->counters();
  for (const std::uint64_t run : {kPages, std::uint64_t{0}, kPages, std::uint64_t{0}}) {
    std::uint64_t syncs = 0, faults = 0;
    for (unsigned round = 0; round < 60; ++round) {
      syncs = c.exec_syncs, faults = c.exec_granted;
      EXPECT_EQ(migrate(w, at, kPages * kPageSize).moved, kPages);
      for (std::uint64_t i = 0; i < run; ++i) EXPECT_EQ(w.cpu().fetch(at + i * kPageSize), i + 1);
    }
    if (run == 0) {
      EXPECT_LE(c.exec_syncs - syncs, kPages / 10);
    } else {
      EXPECT_LE(c.exec_granted - faults, kPages / 10);
    }
  }
}

// What is written and made executable again, as compilers do, has a history as well.
TEST_P(MigratedCode, AdaptiveFollowsWhatIsMadeExecutable) {
  for (const std::uint64_t fault_cost : {500, 3000}) {
    World w(GetParam(),
            {.config = {.blocks = false, .exec_sync = Policy::Adaptive, .exit_cost = fault_cost, .around_pages = 1}});
    w.tlb.sync_cost = kSync, w.tlb.fault_cost = fault_cost;
    const Gva at = fill(w, kPages, kReadExec);
    const Counters& c = w.as->counters();
    for (const std::uint64_t run : {kPages, std::uint64_t{0}, kPages}) {
      std::uint64_t syncs = 0, faults = 0;
      for (unsigned round = 0; round < 100; ++round) {
        ASSERT_TRUE(w.as->protect(at, kPages * kPageSize, kReadWrite));
        for (std::uint64_t i = 0; i < kPages; ++i) ASSERT_TRUE(w.cpu().store(at + i * kPageSize, i + round));
        syncs = c.exec_syncs, faults = c.exec_granted;
        ASSERT_TRUE(w.as->protect(at, kPages * kPageSize, kReadExec));
        for (std::uint64_t i = 0; i < run; ++i) EXPECT_EQ(w.cpu().fetch(at + i * kPageSize), i + round);
      }
      if (run == 0) {
        EXPECT_LE(c.exec_syncs - syncs, kPages / 10) << fault_cost;
      } else {
        EXPECT_LE(c.exec_granted - faults, kPages / 10) << fault_cost;
      }
      w.check();
    }
  }
}

// What pages are moved for tells whether they will run: one reason's history is not another's.
TEST_P(MigratedCode, ReasonsAreToldApart) {
  World w(GetParam(),
          {.config = {.blocks = false, .exec_sync = Policy::Adaptive, .exit_cost = 500, .around_pages = 1}});
  w.tlb.sync_cost = kSync, w.tlb.fault_cost = 500;
  const Gva at = fill(w, kPages, kReadExec);
  const auto round = [&](MoveReason reason, std::uint64_t run) {
    EXPECT_EQ(migrate(w, at, kPages * kPageSize, reason).moved, kPages);
    for (std::uint64_t i = 0; i < run; ++i) EXPECT_EQ(w.cpu().fetch(at + i * kPageSize), i + 1);
  };
  for (unsigned i = 0; i < 4; ++i) {
    round(MoveReason::Numa, kPages);
    round(MoveReason::Explicit, 0);
  }
  const Counters& c = w.as->counters();
  std::uint64_t syncs = c.exec_syncs;
  round(MoveReason::Numa, 0);
  EXPECT_GE(c.exec_syncs - syncs, kPages * 9 / 10) << "they had run each time";
  syncs = c.exec_syncs;
  round(MoveReason::Explicit, 0);
  EXPECT_LE(c.exec_syncs - syncs, kPages / 10) << "they never had";
}

RAMET_FOR_EACH_FORMAT(MigratedCode);

// One page moved for one reason among many that are withheld for another: that many ran says little about the one.
TEST(ExecHistory, WhatRunsIsNotAllOfTheLastReason) {
  const ExecCosts costs{.sync = 3800, .fault = 1300};
  ExecHistory history;
  history.defer(MoveReason::Explicit, 512);
  history.defer(MoveReason::Hotplug, 1);
  for (int i = 0; i < 115; ++i) history.ran();
  history.conclude(MoveReason::Hotplug);
  history.conclude(MoveReason::Explicit);
  EXPECT_EQ(history.every(MoveReason::Hotplug, costs, 1), 1u);
  EXPECT_EQ(history.every(MoveReason::Explicit, costs, 1), 1u);
  for (int round = 0; round < 2; ++round) {
    history.defer(MoveReason::Hotplug, 512);
    for (int i = 0; i < 512; ++i) history.ran();
    history.conclude(MoveReason::Hotplug);
  }
  EXPECT_GT(history.every(MoveReason::Hotplug, costs, 1), 1u);
  EXPECT_EQ(history.every(MoveReason::Explicit, costs, 1), 1u);
}

}  // namespace
}  // namespace ramet::mm
