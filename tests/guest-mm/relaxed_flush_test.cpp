// Relaxed flushes: giving permission disturbs nobody, taking what nobody used needs no flush, and all of it is
// counted.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "tests/guest-mm/world.hpp"

namespace ramet::mm::test {
namespace {

class RelaxedFlush : public ForEachFormat {};
RAMET_FOR_EACH_FORMAT(RelaxedFlush);

constexpr unsigned kFewPages = 64;

// A second vCPU holds the pages read-only; then they become writable.
struct Upgrade {
  explicit Upgrade(Format format, bool relaxed) : w(format, {.config = {.blocks = false, .relaxed_flushes = relaxed}}) {
    a = w.map(kFewPages * kPageSize);
    for (unsigned i = 0; i < kFewPages; ++i) EXPECT_TRUE(w.cpu(0).store(a + i * kPageSize, i));
    EXPECT_TRUE(w.as->protect(a, kFewPages * kPageSize, kRead));
    for (unsigned i = 0; i < kFewPages; ++i) EXPECT_TRUE(w.cpu(1).load(a + i * kPageSize));
    strict = w.tlb.strict;
    EXPECT_TRUE(w.as->protect(a, kFewPages * kPageSize, kReadWrite));
    for (unsigned i = 0; i < kFewPages; ++i) EXPECT_TRUE(w.cpu(1).store(a + i * kPageSize, i));
    w.check();
  }
  World w;
  Gva a;
  unsigned strict;
};

TEST_P(RelaxedFlush, An_upgrade_costs_another_vcpu_one_spurious_fault_however_many_pages) {
  Upgrade u(GetParam(), true);
  EXPECT_EQ(u.w.tlb.strict, u.strict);
  EXPECT_EQ(u.w.tlb.relaxed, 1u);
  EXPECT_EQ(u.w.tlb.spurious, 1u);
  EXPECT_EQ(u.w.tlb.spurious_flushes, 1u);
  EXPECT_EQ(u.w.as->counters().faults_spurious, 1u);
}

TEST_P(RelaxedFlush, Switched_off_an_upgrade_disturbs_every_vcpu) {
  Upgrade u(GetParam(), false);
  EXPECT_EQ(u.w.tlb.strict, u.strict + 1);
  EXPECT_EQ(u.w.tlb.relaxed, 0u);
  EXPECT_EQ(u.w.tlb.spurious, 0u);
}

// Those of faults without the lock are strict then, and meet merges, whose tables wait for a flush under the lock.
TEST_P(RelaxedFlush, Switched_off_faults_without_the_lock_flush_beside_those_with_it) {
  World w(GetParam(), {.config = {.relaxed_flushes = false, .eager_accessed_dirty = false}});
  const Gva a = w.map_at(0x4000'0000, kBlockSize), b = w.map(kFewPages * kPageSize);
  std::atomic<bool> done{false};
  std::thread merging([&] {
    for (unsigned i = 0; i < scaled(300, 50); ++i) {
      EXPECT_TRUE(w.cpu(0).store(a, i));
      EXPECT_TRUE(w.as->split(a, kBlockSize, arch::Level::Pte));
      EXPECT_EQ(w.as->merge(a, kBlockSize), 1u);
    }
    done = true;
  });
  const std::uint64_t speculative = w.as->counters().spf;
  do {
    for (unsigned i = 0; i < kFewPages; ++i) {
      EXPECT_TRUE(w.as->fault(b + i * kPageSize, Access::Read));
      EXPECT_TRUE(w.as->fault(b + i * kPageSize, Access::Write));  // makes it dirty
    }
    EXPECT_TRUE(w.as->advise(b, kFewPages * kPageSize, Advice::DontNeed));
  } while (!done);
  merging.join();
  EXPECT_GT(w.as->counters().spf, speculative);
  EXPECT_EQ(w.tlb.relaxed, 0u);
  w.check();
}

TEST_P(RelaxedFlush, An_upgrade_maps_writable_at_once) {
  World w(GetParam(), {.config = {.blocks = false}});
  const Gva a = w.map(kFewPages * kPageSize);
  for (unsigned i = 0; i < kFewPages; ++i) ASSERT_TRUE(w.cpu().store(a + i * kPageSize, i));
  ASSERT_TRUE(w.as->protect(a, kFewPages * kPageSize, kRead));
  ASSERT_TRUE(w.as->protect(a, kFewPages * kPageSize, kReadWrite));
  const std::uint64_t faults = w.as->counters().faults;
  for (unsigned i = 0; i < kFewPages; ++i) ASSERT_TRUE(w.cpu().store(a + i * kPageSize, i));
  EXPECT_EQ(w.as->counters().faults, faults);
}

TEST_P(RelaxedFlush, Instruction_fetches_find_new_permission_too) {
  World w(GetParam(), {.config = {.blocks = false}});
  const Gva a = w.map(kFewPages * kPageSize, kRead);
  for (unsigned i = 0; i < kFewPages; ++i) ASSERT_TRUE(w.cpu(1).load(a + i * kPageSize));
  ASSERT_TRUE(w.as->protect(a, kFewPages * kPageSize, kReadExec));
  EXPECT_EQ(w.tlb.strict, 0u);
  for (unsigned i = 0; i < kFewPages; ++i) ASSERT_TRUE(w.cpu(1).fetch(a + i * kPageSize));
  EXPECT_EQ(w.tlb.spurious, 1u);
  w.check();
}

TEST_P(RelaxedFlush, Entries_nobody_used_go_without_a_flush) {
  World w(GetParam(), {.config = {.blocks = false, .eager_accessed_dirty = false}});
  const Gva a = w.map(16 * kPageSize);
  ASSERT_TRUE(w.cpu().store(a, 1));  // maps all 16
  EXPECT_EQ(w.as->usage().data_pages_4k, 16u);
  ASSERT_TRUE(w.as->protect(a + 4 * kPageSize, 4 * kPageSize, kRead));
  ASSERT_TRUE(w.as->unmap(a + 8 * kPageSize, 8 * kPageSize));
  EXPECT_EQ(w.tlb.strict, 0u);
  ASSERT_TRUE(w.as->unmap(a, kPageSize));
  EXPECT_EQ(w.tlb.strict, 1u);
  w.check();
  w.check_empty();
}

TEST_P(RelaxedFlush, A_page_only_read_becomes_read_only_without_a_flush) {
  for (const bool written : {false, true}) {
    World w(GetParam(), {.config = {.blocks = false, .eager_accessed_dirty = false, .around_pages = 1}});
    const Gva a = w.map(kPageSize);
    ASSERT_TRUE(w.cpu(0).load(a));
    ASSERT_TRUE(w.cpu(1).load(a));
    if (written) {
      ASSERT_TRUE(w.cpu(1).store(a, 7));
    }
    ASSERT_TRUE(w.as->protect(a, kPageSize, kRead));
    EXPECT_EQ(w.tlb.strict, written ? 1u : 0u);
    EXPECT_EQ(w.cpu(0).store(a, 8).error(), Error::NotPermitted);
    EXPECT_EQ(w.cpu(1).store(a, 8).error(), Error::NotPermitted);
    EXPECT_EQ(w.cpu(0).load(a), written ? 7u : 0u);
    w.check();
  }
}

// Whoever writes may do so until protect() returns, and not after; the walker sets dirty bits all the while.
TEST_P(RelaxedFlush, A_protection_holds_from_the_moment_it_returns) {
  for (const auto& [eager, by_fault] : {std::pair(true, false), std::pair(false, false), std::pair(false, true)}) {
    World w(GetParam(), {.vcpus = 3,
                         .config = {.blocks = false, .eager_accessed_dirty = eager, .around_pages = 1},
                         .flags_by_fault = by_fault});
    const Gva a = w.map(4 * kPageSize);
    std::atomic<bool> done{false};
    std::vector<std::thread> writers;
    for (unsigned me = 1; me < 3; ++me) {
      writers.emplace_back([&, me] {
        for (std::uint64_t i = 1; !done; ++i) (void)w.cpu(me).store(a + i % 4 * kPageSize + 8 * me, i);
      });
    }
    for (unsigned round = 0; round < scaled(2000, 300); ++round) {
      const Gva page = a + round % 4 * kPageSize;
      ASSERT_TRUE(w.as->protect(page, kPageSize, kRead));
      const auto first = w.cpu(0).load(page + 8), second = w.cpu(0).load(page + 16);
      if (round % 8 == 0) std::this_thread::yield();
      ASSERT_EQ(w.cpu(0).load(page + 8), first) << "round " << round;
      ASSERT_EQ(w.cpu(0).load(page + 16), second) << "round " << round;
      ASSERT_TRUE(w.as->protect(page, kPageSize, kReadWrite));
      if (round % 16 == 0) {
        ASSERT_TRUE(w.as->advise(page, kPageSize, Advice::DontNeed));
      }
    }
    done = true;
    for (auto& t : writers) t.join();
    w.check();
    w.check_empty();
  }
}

}  // namespace
}  // namespace ramet::mm::test
