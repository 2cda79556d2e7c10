// Entries that say by themselves whether they were used, on processors that do not set that: a fault does.
#include "tests/guest-mm/world.hpp"

namespace ramet::mm::test {
namespace {

class AccessFlag : public ::testing::TestWithParam<Format> {
 protected:
  static constexpr std::uint64_t kPages = 16;
  static constexpr AddressSpace::Config kLazily{.blocks = false, .eager_accessed_dirty = false, .around_pages = kPages};
};
INSTANTIATE_TEST_SUITE_P(, AccessFlag, ::testing::Values(Format::Arm64Stage1, Format::Arm64Stage2),
                         [](const auto& i) { return i.param == Format::Arm64Stage1 ? "Arm64Stage1" : "Arm64Stage2"; });

TEST_P(AccessFlag, The_first_access_to_each_page_is_a_fault_that_sets_it) {
  World w(GetParam(), {.vcpus = 1, .config = kLazily, .flags_by_fault = true});
  const Gva a = w.map(kPages * kPageSize);
  ASSERT_TRUE(w.cpu().load(a));  // maps all of them
  EXPECT_EQ(w.as->usage().data_pages_4k, kPages);
  EXPECT_EQ(w.as->counters().faults_flipped, 0u);
  for (const std::uint64_t times : {1, 2, 3}) {
    for (std::uint64_t page = 0; page < kPages; ++page) ASSERT_EQ(w.cpu().load(a + page * kPageSize), 0u) << times;
  }
  EXPECT_EQ(w.as->counters().faults_flipped, kPages - 1);
  for (std::uint64_t page = 0; page < kPages; ++page) ASSERT_TRUE(w.cpu().store(a + page * kPageSize, 1 + page));
  EXPECT_EQ(w.as->counters().faults_flipped, 2 * kPages - 1) << "clean ones become dirty by a fault as well";
  for (std::uint64_t page = 0; page < kPages; ++page) ASSERT_EQ(w.cpu().load(a + page * kPageSize), 1 + page);
  EXPECT_EQ(w.as->counters().faults, 2 * kPages);
  EXPECT_EQ(w.tlb.strict, 0u);
  w.check();
  w.check_empty();
}

TEST_P(AccessFlag, Entries_nobody_used_go_without_a_flush_and_others_with_one) {
  World w(GetParam(), {.config = kLazily, .flags_by_fault = true});
  const Gva a = w.map(kPages * kPageSize);
  ASSERT_TRUE(w.cpu().load(a));
  ASSERT_TRUE(w.as->unmap(a + 8 * kPageSize, 8 * kPageSize));
  EXPECT_EQ(w.tlb.strict, 0u);
  ASSERT_TRUE(w.cpu().load(a + kPageSize));
  ASSERT_TRUE(w.as->unmap(a + kPageSize, kPageSize));
  EXPECT_EQ(w.tlb.strict, 1u);
  EXPECT_EQ(w.cpu().load(a + kPageSize).error(), Error::NotMapped);
  w.check();
  w.check_empty();
}

TEST_P(AccessFlag, What_a_region_lets_do_both_ways_stays_as_it_is_when_it_is_only_used) {
  World w(GetParam(), {.config = kLazily, .flags_by_fault = true});
  const Gva a = w.map(kPages * kPageSize, kReadWrite | Prot::Exec);
  ASSERT_TRUE(w.cpu().fetch(a));  // all of them are for execution
  const std::uint64_t flips = w.as->counters().faults_flipped;
  ASSERT_TRUE(w.cpu().load(a + kPageSize));
  ASSERT_TRUE(w.cpu().fetch(a + kPageSize));
  EXPECT_EQ(w.as->counters().faults_flipped, flips + 1) << "a load takes no permission away";
  w.check();
}

TEST_P(AccessFlag, Both_sides_of_a_freeze_go_on) {
  Genet g(GetParam(), kLazily);
  g.flags_by_fault = true;
  auto parent = g.make();
  const Gva a = parent->map(kPages * kPageSize);
  ASSERT_TRUE(parent->cpu().store(a, 1));
  auto child = g.child(*parent->as->freeze());
  for (std::uint64_t page = 0; page < kPages; ++page) {
    ASSERT_EQ(child->cpu().load(a + page * kPageSize), page == 0 ? 1u : 0u);
    ASSERT_TRUE(child->cpu().store(a + page * kPageSize, 2));
    ASSERT_EQ(parent->cpu().load(a + page * kPageSize), page == 0 ? 1u : 0u);
  }
  parent->check();
  child->check();
}

}  // namespace
}  // namespace ramet::mm::test
