// Faults without the address-space lock: when they settle, when they leave it to the classic way, and what they must
// not do while others change things.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <random>
#include <thread>

#include "tests/guest-mm/world.hpp"

namespace ramet::mm::test {
namespace {

class Speculative : public ForEachFormat {};
RAMET_FOR_EACH_FORMAT(Speculative);

AddressSpace::Config pages_only() {
  AddressSpace::Config c;
  c.blocks = false;
  return c;
}

TEST_P(Speculative, Only_a_missing_table_needs_the_lock) {
  World w(GetParam(), {.config = pages_only()});
  const Gva a = w.map(2 * kMiB);
  ASSERT_TRUE(w.cpu().store(a, 1));
  const Counters& c = w.as->counters();
  EXPECT_EQ(c.spf, 0u);
  EXPECT_EQ(c.spf_table_changed, 1u);
  for (Gva at = a + 0x40000; at < a + 2 * kMiB; at += 0x40000) ASSERT_TRUE(w.cpu().store(at, at));
  EXPECT_EQ(c.spf, c.faults - 1);
  EXPECT_EQ(c.faults_zero, c.faults);
  EXPECT_GT(c.spf, 2u);
  w.check();
  w.check_empty();
}

// Tables are put by where one was missing, twice as many each time.
TEST_P(Speculative, Missing_tables_need_the_lock_less_and_less) {
  World w(GetParam(), {.data = 256 * kMiB, .config = pages_only()});
  const Gva a = w.map_at(0x4000'0000, 200 * kMiB);
  for (Gva at = a; at < a + 200 * kMiB; at += kBlockSize) ASSERT_TRUE(w.cpu().store(at, at));
  const Counters& c = w.as->counters();
  EXPECT_EQ(c.faults, 100u);
  EXPECT_EQ(c.spf_table_changed, 6u);  // before 2, 4, 8, 16, 32 and 64 tables
  EXPECT_EQ(c.spf, 94u);
  const std::uint64_t with_tables = w.as->usage().table_pages;
  EXPECT_EQ(with_tables, w.empty_tables + 100 + 2);
  w.check();
  w.check_empty();
}

TEST_P(Speculative, The_last_tables_are_for_those_with_the_lock) {
  World w(GetParam(), {.data = 256 * kMiB, .config = pages_only()});
  const Gva a = w.map_at(0x4000'0000, 200 * kMiB);
  ASSERT_TRUE(w.cpu().store(a, a));  // a table, and two are put by
  use_up_tables(w, 3);
  for (unsigned i = 1; i < 4; ++i) ASSERT_TRUE(w.cpu().store(a + i * kBlockSize, i));
  EXPECT_EQ(w.cpu().store(a + 4 * kBlockSize, 1), fail(Error::NoMemory));
  w.check();
  w.check_empty();
}

TEST_P(Speculative, Blocks_take_part) {
  World w(GetParam());
  const Gva a = w.map(16 * kMiB);
  for (Gva at = a; at < a + 16 * kMiB; at += 4096) ASSERT_TRUE(w.cpu().store(at, at));
  const Counters& c = w.as->counters();
  EXPECT_EQ(c.blocks_mapped, 8u);
  EXPECT_GE(c.spf, 1u);
  EXPECT_EQ(w.as->usage().data_blocks_2m, 8u);
  w.check();
  w.check_empty();
}

TEST_P(Speculative, Switched_off_every_fault_takes_the_lock) {
  World w(GetParam(), {.config = {.speculative_faults = false}});
  const Gva a = w.map(4 * kMiB);
  for (Gva at = a; at < a + 4 * kMiB; at += 0x10000) ASSERT_TRUE(w.cpu().store(at, at));
  const Counters& c = w.as->counters();
  EXPECT_EQ(c.spf + c.spf_pte_lock + c.spf_region_changed + c.spf_not_supported + c.spf_table_changed + c.spf_budget,
            0u);
  w.check();
}

// Somebody holds the lock for as long as a file takes: other faults do not wait for it, and without the technique do.
TEST_P(Speculative, A_fault_does_not_wait_for_whoever_holds_the_lock) {
  for (const bool speculative : {true, false}) {
    World w(GetParam(), {.config = {.blocks = false, .speculative_faults = speculative}});
    auto file = std::make_shared<SlowFile>(*w.memory, 64 * 1024);
    const Gva own = w.map(2 * kMiB);
    ASSERT_TRUE(w.cpu(0).store(own, 1));  // the table is there
    const Gva slow = 0x2000'0000;         // a table that is not
    ASSERT_TRUE(w.as->map({.address = slow, .length = 64 * 1024, .prot = kRead, .fixed = true, .backing = file}));
    file->hold();
    std::thread holder([&] { EXPECT_TRUE(w.cpu(1).load(slow)); });
    file->wait_for_reader();
    std::atomic<bool> done{false};
    std::thread other([&] {
      EXPECT_TRUE(w.cpu(0).store(own + kMiB, 2));
      done = true;
    });
    if (speculative) {
      other.join();
      EXPECT_TRUE(done);
    } else {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      EXPECT_FALSE(done);
    }
    file->release();
    if (other.joinable()) other.join();
    holder.join();
    w.check();
    w.check_empty();
  }
}

TEST_P(Speculative, A_region_removed_while_its_fault_reads_gets_no_page) {
  World w(GetParam(), {.config = pages_only()});
  auto file = std::make_shared<SlowFile>(*w.memory, 512 * 1024);
  const Gva a = 0x2000'0000;
  ASSERT_TRUE(w.as->map({.address = a, .length = 512 * 1024, .prot = kRead, .fixed = true, .backing = file}));
  ASSERT_TRUE(w.cpu(0).load(a));
  file->hold();
  std::thread reader([&] { EXPECT_EQ(w.cpu(1).load(a + 0x40000).error(), Error::NotMapped); });
  file->wait_for_reader();
  std::thread remover([&] { EXPECT_TRUE(w.as->unmap(a, 512 * 1024)); });
  // Its entries have gone, so it has marked the region; it waits for the reader to let the file go.
  while (w.tlb.walk(a, [](Gpa, unsigned, std::uint64_t) {})) std::this_thread::yield();
  file->release();
  reader.join();
  remover.join();
  // The first had no table; the other found the region changed, its table gone, or the remover still holding it.
  const Counters& c = w.as->counters();
  EXPECT_EQ(c.spf, 0u);
  EXPECT_EQ(c.spf_region_changed + c.spf_table_changed + c.spf_pte_lock, 2u);
  EXPECT_EQ(w.frames(), 0u);
  w.check();
  w.check_empty();
}

// The region stays as it is, the table goes: its other entries were all there was in it.
TEST_P(Speculative, A_table_removed_while_its_fault_reads_gets_no_page) {
  World w(GetParam(), {.config = pages_only()});
  auto file = std::make_shared<SlowFile>(*w.memory, 64 * 1024);
  const Gva a = 0x2000'0000, other = a + kMiB;
  ASSERT_TRUE(w.as->map({.address = a, .length = 64 * 1024, .prot = kRead, .fixed = true, .backing = file}));
  w.map_at(other, 64 * 1024);
  ASSERT_TRUE(w.cpu().store(other, 1));
  file->hold();
  std::thread reader([&] { EXPECT_TRUE(w.cpu(1).load(a)); });
  file->wait_for_reader();
  ASSERT_TRUE(w.as->unmap(other, 64 * 1024));
  file->release();
  reader.join();
  EXPECT_EQ(w.as->counters().spf, 0u);
  EXPECT_EQ(w.as->counters().spf_table_changed, 2u);  // and one for the first
  w.check();
  w.check_empty();
}

TEST_P(Speculative, Frames_in_flight_are_bounded_and_given_back) {
  World w(GetParam(), {.config = {.blocks = false, .speculative_frames = 15}});  // a window is 16
  const Gva a = w.map(2 * kMiB);
  for (Gva at = a; at < a + 2 * kMiB; at += 0x100000) ASSERT_TRUE(w.cpu().store(at, at));
  const Counters& c = w.as->counters();
  EXPECT_EQ(c.spf, 0u);
  EXPECT_EQ(c.spf_budget, 1u);  // the other one had no table yet
  w.check();                    // which looks for frames left in flight
}

TEST_P(Speculative, Out_of_frames_is_an_error_and_leaves_nothing_behind) {
  World w(GetParam(), {.data = 4 * kMiB});
  const Gva a = w.map(8 * kMiB);
  Error error{};
  std::uint64_t stored = 0;
  for (Gva at = a; at < a + 8 * kMiB; at += kPageSize) {
    if (const auto done = w.cpu().store(at, at); !done) {
      error = done.error();
      break;
    }
    ++stored;
  }
  EXPECT_EQ(error, Error::NoMemory);
  EXPECT_EQ(stored, 1024u);
  w.check();
  EXPECT_TRUE(w.as->unmap(a, 4 * kMiB));
  EXPECT_TRUE(w.cpu().store(a + 6 * kMiB, 1));
  w.check();
  w.check_empty();
}

// Many threads, one table: every page is mapped once, whoever wins.
TEST_P(Speculative, Threads_that_fault_in_one_table_share_it) {
  constexpr unsigned kThreads = 4;
  World w(GetParam(), {.vcpus = kThreads, .config = {.blocks = false, .around_pages = 1}});
  for (unsigned round = 0; round < scaled(20, 5); ++round) {
    const Gva a = w.map(2 * kMiB);
    std::vector<std::thread> threads;
    for (unsigned me = 0; me < kThreads; ++me) {
      threads.emplace_back([&, me] {
        for (unsigned i = 0; i < 512; ++i)
          ASSERT_TRUE(w.cpu(me).store(a + (i * 37 + me) % 512 * kPageSize + 8 * me, i));
      });
    }
    for (auto& t : threads) t.join();
    EXPECT_EQ(w.frames(), 512u);
    w.check();
    ASSERT_TRUE(w.as->unmap(a, 2 * kMiB));
  }
  EXPECT_GT(w.as->counters().spf, scaled(1000, 250));
  w.check_empty();
}

// After unmap returns, no fault that began before may have published: the range is mapped read-only at once, and what
// a late fault left there would be a writable page with somebody's word in it.
TEST_P(Speculative, No_fault_publishes_after_its_region_has_gone) {
  World w(GetParam(), {.vcpus = 3, .config = {.blocks = false, .around_pages = 1}});
  const Gva a = 0x2000'0000, beside = a + 0x100000;
  const std::uint64_t length = 16 * kPageSize;
  ASSERT_TRUE(w.as->map({.address = beside, .length = kPageSize, .prot = kReadWrite, .fixed = true}));
  ASSERT_TRUE(w.cpu().store(beside, 1));  // keeps the table
  std::atomic<bool> done{false};
  std::vector<std::thread> writers;
  for (unsigned me = 1; me < 3; ++me) {
    writers.emplace_back([&, me] {
      for (std::uint64_t i = 0; !done; ++i) (void)w.cpu(me).store(a + i % 16 * kPageSize, ~0ull);
    });
  }
  for (unsigned round = 0; round < scaled(1000, 200); ++round) {
    ASSERT_TRUE(w.as->map({.address = a, .length = length, .prot = kReadWrite, .fixed = true}));
    if (round % 4 == 0) std::this_thread::yield();
    ASSERT_TRUE(w.as->unmap(a, length));
    for (Gva at = a; at < a + length; at += kPageSize) {
      ASSERT_FALSE(w.tlb.walk(at, [](Gpa, unsigned, std::uint64_t) {})) << "round " << round;
    }
    ASSERT_TRUE(w.as->map({.address = a, .length = length, .prot = kRead, .fixed = true}));
    for (Gva at = a; at < a + length; at += 5 * kPageSize) ASSERT_EQ(w.cpu().load(at), 0u) << "round " << round;
  }
  done = true;
  for (auto& t : writers) t.join();
  w.check();
  w.check_empty();
}

// The same with what is published in a slot that unmap finds empty: a block, or a table.
void expect_nothing_late(Format format, bool blocks) {
  AddressSpace::Config config;
  config.blocks = blocks;
  if (!blocks) config.around_pages = 1;
  World w(format, {.config = config});
  const Gva a = 0x4000'0000, length = (blocks ? 1 : 16) * kBlockSize, beside = a + length;
  w.map_at(beside, kPageSize);
  ASSERT_TRUE(w.cpu().store(beside, 1));  // keeps the table above
  std::mt19937_64 random(1);
  std::atomic<bool> done{false};
  std::jthread faults([&] {
    for (Gva at = 0; !done; at = (at + kBlockSize) % length) (void)w.as->fault(a + at, Access::Write);
  });
  for (unsigned round = 0; round < scaled(blocks ? 5000 : 20000, 300) && !::testing::Test::HasFailure(); ++round) {
    w.map_at(a, length);
    EXPECT_TRUE(w.as->advise(a, length, Advice::Huge));
    EXPECT_TRUE(w.as->advise(a, length, Advice::DontNeed));  // pages that were there before it
    // Before, while or after somebody faults.
    const std::uint64_t wait = random() % (blocks ? 60'000 : 3'000);
    for (volatile std::uint64_t i = 0; i < wait;) i = i + 1;
    EXPECT_TRUE(w.as->unmap(a, length));
    w.as->dump([&](const AddressSpace::Node& node) {
      const bool within = node.start >= a && node.start < a + length;
      EXPECT_FALSE(within && node.level <= (node.table ? arch::Level::Pte : arch::Level::Pmd)) << "round " << round;
    });
  }
  done = true;
  faults.join();
  EXPECT_GT(blocks ? w.as->counters().blocks_mapped : w.as->counters().pages_mapped, 0u);
  w.check();
  w.check_empty();
}
TEST_P(Speculative, No_block_is_published_after_its_region_has_gone) { expect_nothing_late(GetParam(), true); }
TEST_P(Speculative, No_table_is_published_after_its_region_has_gone) { expect_nothing_late(GetParam(), false); }

// A vCPU may go on using what was unmapped until the flush returns; a fault that needs no lock must not get its frame.
TEST_P(Speculative, Frames_are_given_to_nobody_before_the_flush) {
  World w(GetParam(), {.vcpus = 3, .config = {.blocks = false, .around_pages = 1}});
  const Gva old = w.map(kPageSize), other = w.map(2 * kPageSize);
  ASSERT_TRUE(w.cpu(2).store(other, 1));  // the table is there
  ASSERT_TRUE(w.cpu(1).store(old, 2));
  bool flushed = false;
  w.tlb.before_flush = [&] {
    flushed = true;
    EXPECT_TRUE(w.cpu(2).store(other + kPageSize, 3));
    EXPECT_TRUE(w.cpu(1).store(old, 4));
    EXPECT_EQ(w.cpu(2).load(other + kPageSize), 3u);
  };
  ASSERT_TRUE(w.as->unmap(old, kPageSize));
  EXPECT_TRUE(flushed);
  w.tlb.before_flush = nullptr;
  w.check();
  w.check_empty();
}

// Whoever reads tables without the lock may hold one that is taken out meanwhile: it must not become another.
TEST_P(Speculative, A_table_taken_out_is_no_other_while_somebody_reads_it) {
  World w(GetParam(), {.config = {.blocks = false}});
  const Gva a = 0x2000'0000, b = 0x6000'0000;
  w.map_at(a, 16 * kPageSize);
  w.map_at(b, 16 * kPageSize);
  ASSERT_TRUE(w.cpu().store(a, 1));
  bool replaced = false;
  w.as->dump([&](const AddressSpace::Node& node) {
    if (node.table && node.level == arch::Level::Pte && node.start == a) {
      std::thread([&] {
        EXPECT_TRUE(w.as->unmap(a, 16 * kPageSize));
        EXPECT_TRUE(w.cpu().store(b, 2));
      }).join();
      replaced = true;
    }
    EXPECT_FALSE(replaced && !node.table && node.start >= a && node.start < a + kBlockSize);
  });
  EXPECT_TRUE(replaced);
  w.check();
  w.check_empty();
}

// Regions that share a table, which comes and goes with their pages: a page published into a table that has just been
// dropped would be lost, and so would one in a table that is somebody else's by now.
TEST_P(Speculative, A_table_dropped_under_a_fault_takes_nothing_with_it) {
  constexpr unsigned kThreads = 3;
  World w(GetParam(), {.vcpus = kThreads, .config = {.blocks = false, .around_pages = 1}});
  const Gva a = 0x2000'0000;
  std::vector<std::thread> threads;
  for (unsigned me = 0; me < kThreads; ++me) {
    const Gva own = a + me * 0x10000;
    ASSERT_TRUE(w.as->map({.address = own, .length = 4 * kPageSize, .prot = kReadWrite, .fixed = true}));
    threads.emplace_back([&, me, own] {
      for (std::uint64_t i = 1; i < 4000; ++i) {
        const Gva at = own + i % 4 * kPageSize;
        ASSERT_TRUE(w.cpu(me).store(at, i));
        ASSERT_EQ(w.cpu(me).load(at), i) << "round " << i;
        if (i % 3 == 0) {
          ASSERT_TRUE(w.as->advise(own, 4 * kPageSize, Advice::DontNeed));
        }
      }
    });
  }
  for (auto& t : threads) t.join();
  w.check();
  w.check_empty();
}

}  // namespace
}  // namespace ramet::mm::test
