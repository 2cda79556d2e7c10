// Changing protection, for every entry format.
#include <gtest/gtest.h>

#include "tests/guest-mm/world.hpp"

namespace ramet::mm::test {
namespace {

class Protect : public ForEachFormat {};
RAMET_FOR_EACH_FORMAT(Protect);

TEST_P(Protect, Taking_write_permission_reaches_every_vcpu_at_once) {
  World w(GetParam());
  const Gva a = w.map(0x4000);
  ASSERT_TRUE(w.cpu(0).store(a, 1));
  ASSERT_TRUE(w.cpu(1).store(a, 2));
  ASSERT_TRUE(w.as->protect(a, 0x4000, kRead));
  EXPECT_EQ(w.tlb.strict, 1u);
  EXPECT_EQ(w.cpu(0).store(a, 3), fail(Error::NotPermitted));
  EXPECT_EQ(w.cpu(1).store(a, 3), fail(Error::NotPermitted));
  EXPECT_EQ(w.cpu(1).load(a), 2u);
  w.check_empty();
}

TEST_P(Protect, Giving_permission_is_relaxed_and_a_stale_vcpu_recovers_by_one_spurious_fault) {
  World w(GetParam());
  const Gva a = w.map(0x4000, kRead);
  EXPECT_EQ(w.cpu(0).load(a), 0u);
  EXPECT_EQ(w.cpu(1).load(a), 0u);
  ASSERT_TRUE(w.as->protect(a, 0x4000, kReadWrite));
  EXPECT_EQ(w.tlb.strict, 0u);
  EXPECT_EQ(w.tlb.relaxed, 1u);
  const std::uint64_t faults = w.as->counters().faults;
  EXPECT_TRUE(w.cpu(1).store(a, 1));
  EXPECT_EQ(w.as->counters().faults, faults + 1);
  EXPECT_EQ(w.as->counters().faults_spurious, 1u);
  w.check_empty();
}

TEST_P(Protect, No_access_keeps_the_contents_and_shows_nothing) {
  World w(GetParam());
  const Gva a = w.map(4 * kMiB);
  for (Gva at = 0; at < 4 * kMiB; at += 0x10000) ASSERT_TRUE(w.cpu().store(a + at, at));
  const auto frames = w.frames();
  ASSERT_TRUE(w.as->protect(a, 4 * kMiB, Prot::None));
  EXPECT_EQ(w.cpu().load(a), fail(Error::NotPermitted));
  EXPECT_EQ(w.frames(), frames);
  w.check();
  ASSERT_TRUE(w.as->protect(a, 4 * kMiB, kRead));
  for (Gva at = 0; at < 4 * kMiB; at += 0x10000) ASSERT_EQ(w.cpu().load(a + at), at);
  EXPECT_EQ(w.cpu().store(a, 1), fail(Error::NotPermitted));
  ASSERT_TRUE(w.as->protect(a + kMiB, kMiB, Prot::None));  // half a block, kept in pieces
  ASSERT_TRUE(w.as->unmap(a + kMiB + 0x5000, 0x3000));
  w.check();
  w.check_empty();
}

TEST_P(Protect, A_part_of_a_block_is_protected_alone) {
  World w(GetParam());
  const Gva a = w.map(4 * kMiB);
  for (Gva at = 0; at < 4 * kMiB; at += kPageSize) ASSERT_TRUE(w.cpu().store(a + at, at));
  ASSERT_TRUE(w.as->protect(a + 0x1000, 0x1000, kRead));
  EXPECT_EQ(w.as->counters().split_pmd, 1u);
  EXPECT_TRUE(w.cpu().store(a, 1));
  EXPECT_EQ(w.cpu().store(a + 0x1000, 1), fail(Error::NotPermitted));
  EXPECT_TRUE(w.cpu().store(a + 0x2000, 1));
  EXPECT_EQ(w.as->usage().data_blocks_2m, 1u);
  w.check();
  ASSERT_TRUE(w.as->protect(a + 2 * kMiB, 2 * kMiB, kRead));  // exactly a block: nothing to split
  EXPECT_EQ(w.as->counters().split_pmd, 1u);
  w.check_empty();
}

TEST_P(Protect, Memory_that_asks_to_be_written_and_executed_is_one_at_a_time) {
  World w(GetParam());
  const Gva a = w.map(0x4000, kAllProt);
  ASSERT_TRUE(w.cpu(0).store(a, 0x90));
  EXPECT_EQ(w.cpu(1).load(a), 0x90u);
  w.check();  // the audit refuses entries that are both
  EXPECT_EQ(w.cpu(0).fetch(a), 0x90u);
  EXPECT_EQ(w.as->counters().faults_flipped, 1u);
  EXPECT_EQ(w.tlb.strict, 1u);
  w.check();
  ASSERT_TRUE(w.cpu(1).store(a, 0xc3));
  EXPECT_EQ(w.cpu(1).fetch(a), 0xc3u);
  EXPECT_EQ(w.as->counters().faults_flipped, 3u);
  EXPECT_EQ(w.cpu(0).fetch(a), 0xc3u);
  w.check_empty();
}

TEST_P(Protect, Plain_code_and_plain_data_never_flip) {
  World w(GetParam());
  const Gva code = w.map(0x4000, kReadExec), data = w.map(0x4000, kReadWrite);
  EXPECT_TRUE(w.cpu().fetch(code));
  EXPECT_TRUE(w.cpu().store(data, 1));
  EXPECT_EQ(w.cpu().store(code, 1), fail(Error::NotPermitted));
  EXPECT_EQ(w.cpu().fetch(data), fail(Error::NotPermitted));
  EXPECT_EQ(w.as->counters().faults_flipped, 0u);
}

TEST_P(Protect, Up_to_holes_and_limits_everything_changes) {
  World w(GetParam());
  const Gva a = 0x100000;
  w.map_at(a, 0x2000);
  w.map_at(a + 0x3000, 0x1000);
  EXPECT_EQ(w.as->protect(a + 0x1000, 0x3000, kRead), fail(Error::NotMapped));
  EXPECT_TRUE(w.cpu().store(a, 1));
  EXPECT_EQ(w.cpu().store(a + 0x1000, 1), fail(Error::NotPermitted));
  EXPECT_TRUE(w.cpu().store(a + 0x3000, 1));
  EXPECT_EQ(w.as->protect(a + 0x2000, 0x2000, kRead), fail(Error::NotMapped)) << "it begins in the hole";
  EXPECT_TRUE(w.cpu().store(a + 0x3000, 1));
  EXPECT_EQ(w.as->protect(a + 1, 0x1000, kRead), fail(Error::Invalid));
  EXPECT_EQ(w.as->protect(a, ~0ull, kRead), fail(Error::NotMapped));
  EXPECT_TRUE(w.as->protect(a, 0, kRead));
  const auto limited = w.as->map({.length = 0x1000, .prot = kRead, .max_prot = kReadExec});
  EXPECT_EQ(w.as->protect(*limited, 0x1000, kReadWrite), fail(Error::NotPermitted));
  const Gva before = *limited - 0x1000;
  if (!w.as->find_region(before)) w.map_at(before, 0x1000);
  EXPECT_TRUE(w.as->protect(before, 0x1000, kRead));
  EXPECT_EQ(w.as->protect(before, 0x2000, kReadWrite), fail(Error::NotPermitted));
  EXPECT_TRUE(w.cpu().store(before, 1)) << "what comes before the limited one has changed";
  EXPECT_TRUE(w.as->protect(*limited, 0x1000, kReadExec));
  EXPECT_EQ(w.as->map({.length = 0x1000, .prot = kReadWrite, .max_prot = kRead}), fail(Error::NotPermitted));
  w.check_empty();
}

TEST_P(Protect, Untouched_memory_changes_without_a_flush) {
  World w(GetParam());
  const Gva a = w.map(64 * kMiB);
  ASSERT_TRUE(w.as->protect(a, 32 * kMiB, kRead));
  EXPECT_EQ(w.tlb.strict + w.tlb.relaxed, 0u);
  EXPECT_EQ(w.as->counters().flushes_avoided, 1u);
}

}  // namespace
}  // namespace ramet::mm::test
