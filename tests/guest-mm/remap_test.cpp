// mremap and madvise, for every entry format.
#include <gtest/gtest.h>

#include "tests/guest-mm/world.hpp"

namespace ramet::mm::test {
namespace {

class Remap : public ForEachFormat {};
RAMET_FOR_EACH_FORMAT(Remap);

void fill(World& w, Gva a, std::uint64_t length, std::uint64_t step = kPageSize) {
  for (Gva at = 0; at < length; at += step) ASSERT_TRUE(w.cpu().store(a + at, at + 1));
}
void expect_filled(World& w, Gva a, std::uint64_t length, std::uint64_t step = kPageSize) {
  for (Gva at = 0; at < length; at += step) ASSERT_EQ(w.cpu().load(a + at), at + 1);
}

TEST_P(Remap, Shrinking_frees_the_tail) {
  World w(GetParam());
  const Gva a = w.map(0x10000);
  fill(w, a, 0x10000);
  EXPECT_EQ(w.as->remap({.address = a, .old_length = 0x10000, .new_length = 0x4000}), a);
  EXPECT_EQ(w.frames(), 4u);
  EXPECT_EQ(w.cpu().load(a + 0x4000), fail(Error::NotMapped));
  expect_filled(w, a, 0x4000);
  w.check_empty();
}

TEST_P(Remap, Shrinking_reaches_over_regions_and_holes) {
  World w(GetParam());
  const Gva a = w.map_at(0x100000, 0x4000);
  w.map_at(0x106000, 0x4000, kRead);
  fill(w, a, 0x4000);
  EXPECT_EQ(w.as->remap({.address = a, .old_length = 0x8000, .new_length = 0x2000}), a);
  EXPECT_EQ(w.frames(), 2u);
  EXPECT_EQ(w.as->find_region(a)->end, a + 0x2000);
  EXPECT_FALSE(w.as->find_region(a + 0x6000));
  EXPECT_EQ(w.as->find_region(a + 0x8000)->start, a + 0x8000);
  w.check_empty();
}

TEST_P(Remap, Growing_in_place_where_there_is_room) {
  World w(GetParam());
  const Gva a = w.map_at(0x100000, 0x4000);
  fill(w, a, 0x4000);
  EXPECT_EQ(w.as->remap({.address = a, .old_length = 0x4000, .new_length = 0x9000}), a);
  expect_filled(w, a, 0x4000);
  EXPECT_EQ(w.cpu().load(a + 0x8000), 0u);
  EXPECT_EQ(w.as->find_region(a)->end, a + 0x9000);
  w.check_empty();
}

TEST_P(Remap, Growing_without_room_moves_if_it_may) {
  World w(GetParam());
  const Gva a = w.map_at(0x100000, 0x4000);
  w.map_at(0x104000, 0x1000, kRead);
  fill(w, a, 0x4000);
  EXPECT_EQ(w.as->remap({.address = a, .old_length = 0x4000, .new_length = 0x5000}), fail(Error::NoMemory));
  const auto b = w.as->remap({.address = a, .old_length = 0x4000, .new_length = 0x5000, .may_move = true});
  ASSERT_TRUE(b);
  EXPECT_NE(*b, a);
  EXPECT_EQ(w.cpu().load(a), fail(Error::NotMapped));
  expect_filled(w, *b, 0x4000);
  EXPECT_EQ(w.cpu().load(*b + 0x4000), 0u);
  w.check_empty();
}

TEST_P(Remap, A_large_move_copies_nothing_and_splits_no_block) {
  World w(GetParam());
  const Gva a = w.map(8 * kMiB);
  w.map_at(a + 8 * kMiB, 0x1000, kRead);
  fill(w, a, 8 * kMiB, 0x10000);
  EXPECT_EQ(w.as->usage().data_blocks_2m, 4u);
  const auto b = w.as->remap({.address = a, .old_length = 8 * kMiB, .new_length = 16 * kMiB, .may_move = true});
  ASSERT_TRUE(b);
  EXPECT_EQ(w.as->usage().data_blocks_2m, 4u);
  EXPECT_EQ(w.as->counters().split_pmd, 0u);
  expect_filled(w, *b, 8 * kMiB, 0x10000);
  w.check_empty();
}

TEST_P(Remap, A_move_to_a_fixed_place_replaces_what_was_there) {
  World w(GetParam());
  const Gva a = w.map(4 * kMiB), b = w.map_at(0x1000'0000, 4 * kMiB);
  fill(w, a, 4 * kMiB, 0x1000);
  fill(w, b, 4 * kMiB, 0x1000);
  EXPECT_EQ(w.as->remap({.address = a,
                         .old_length = 4 * kMiB,
                         .new_length = 3 * kMiB,
                         .may_move = true,
                         .fixed = true,
                         .new_address = b + 0x3000}),
            b + 0x3000);
  w.check();
  expect_filled(w, b + 0x3000, 3 * kMiB);
  expect_filled(w, b, 0x3000);
  EXPECT_EQ(w.cpu().load(a), fail(Error::NotMapped));
  EXPECT_EQ(w.cpu().load(a + 3 * kMiB), fail(Error::NotMapped));
  w.check_empty();
}

TEST_P(Remap, No_vcpu_ever_finds_two_frames_at_the_target) {
  World w(GetParam());
  const Gva a = w.map_at(0x1000'0000, 0x8000), b = w.map_at(0x2000'0000, 0x8000);
  fill(w, a, 0x8000);
  fill(w, b, 0x8000);
  EXPECT_TRUE(w.as->remap(
      {.address = a, .old_length = 0x8000, .new_length = 0x8000, .may_move = true, .fixed = true, .new_address = b}));
  EXPECT_EQ(w.tlb.conflicts, 0u);  // arm64: the old entries went, were flushed, and only then the new came
  w.check_empty();
}

TEST_P(Remap, Leaving_the_old_range_mapped_leaves_it_empty) {
  World w(GetParam());
  const Gva a = w.map(0x8000);
  fill(w, a, 0x8000);
  const auto b = w.as->remap(
      {.address = a, .old_length = 0x8000, .new_length = 0x8000, .may_move = true, .dont_unmap = true});
  ASSERT_TRUE(b);
  ASSERT_NE(*b, a);
  expect_filled(w, *b, 0x8000);
  EXPECT_EQ(w.cpu().load(a), 0u);
  w.check_empty();
}

TEST_P(Remap, A_part_of_a_region_moves_alone_and_kept_pages_move_too) {
  World w(GetParam());
  const Gva a = w.map_at(0x1000'0000, 0x10000);
  fill(w, a, 0x10000);
  ASSERT_TRUE(w.as->protect(a, 0x10000, Prot::None));
  const auto b = w.as->remap({.address = a + 0x4000, .old_length = 0x4000, .new_length = 0x8000, .may_move = true});
  ASSERT_TRUE(b);
  w.check();
  ASSERT_TRUE(w.as->protect(*b, 0x8000, kRead));
  EXPECT_EQ(w.cpu().load(*b), 0x4001u);
  ASSERT_TRUE(w.as->protect(a, 0x4000, kRead));
  expect_filled(w, a, 0x4000);
  w.check_empty();
}

TEST_P(Remap, Arguments_that_make_no_sense_are_refused) {
  World w(GetParam());
  const Gva a = w.map_at(0x1000'0000, 0x4000);
  w.map_at(a + 0x4000, 0x4000, kRead);
  const auto remap = [&](RemapRequest r) { return w.as->remap(r); };
  EXPECT_EQ(remap({.address = a + 1, .old_length = 0x1000, .new_length = 0x1000}), fail(Error::Invalid));
  EXPECT_EQ(remap({.address = a, .old_length = 0x1000, .new_length = 0}), fail(Error::Invalid));
  EXPECT_EQ(remap({.address = a, .old_length = 0, .new_length = 0x1000}), fail(Error::Invalid));
  EXPECT_EQ(remap({.address = a, .old_length = ~0ull, .new_length = 0x1000}), fail(Error::Invalid));
  EXPECT_EQ(remap({.address = a, .old_length = 0x1000, .new_length = ~0ull, .may_move = true}), fail(Error::NoMemory));
  EXPECT_EQ(remap({.address = a, .old_length = 0x8000, .new_length = 0xc000, .may_move = true}),
            fail(Error::NotMapped));
  EXPECT_EQ(remap({.address = 0x2000'0000, .old_length = 0x1000, .new_length = 0x2000}), fail(Error::NotMapped));
  EXPECT_EQ(remap(
                {.address = a, .old_length = 0x1000, .new_length = 0x1000, .fixed = true, .new_address = 0x3000'0000}),
            fail(Error::Invalid));
  EXPECT_EQ(remap({.address = a,
                   .old_length = 0x4000,
                   .new_length = 0x4000,
                   .may_move = true,
                   .fixed = true,
                   .new_address = a + 0x3000}),
            fail(Error::Invalid));
  EXPECT_EQ(remap({.address = a,
                   .old_length = 0x1000,
                   .new_length = 0x1000,
                   .may_move = true,
                   .fixed = true,
                   .new_address = 0x7fff'ffff'f000}),
            fail(Error::Invalid));
  EXPECT_EQ(remap({.address = a, .old_length = 0x4000, .new_length = 0x8000, .may_move = true, .dont_unmap = true}),
            fail(Error::Invalid));
  w.check_empty();
}

TEST_P(Remap, Advice_not_to_need_memory_frees_it_and_it_is_zero_again) {
  World w(GetParam());
  const Gva a = w.map(4 * kMiB);
  fill(w, a, 4 * kMiB);
  ASSERT_TRUE(w.as->advise(a + 0x3000, 2 * kMiB, Advice::DontNeed));
  EXPECT_EQ(w.frames(), 512u);
  EXPECT_EQ(w.cpu().load(a + 0x2000), 0x2001u);
  EXPECT_EQ(w.cpu().load(a + 0x3000), 0u);
  EXPECT_EQ(w.cpu().load(a + 0x3000 + 2 * kMiB), 0x3001u + 2 * kMiB);
  ASSERT_TRUE(w.as->advise(a, 4 * kMiB, Advice::Free));
  EXPECT_EQ(w.frames(), 0u);
  w.check_empty();
}

TEST_P(Remap, Advice_on_huge_pages_and_forks_is_remembered_for_exactly_its_range) {
  World w(GetParam());
  const Gva a = w.map(8 * kMiB);
  ASSERT_TRUE(w.as->advise(a + 2 * kMiB, 2 * kMiB, Advice::Huge));
  EXPECT_EQ(w.as->find_region(a)->huge, Region::Huge::Default);
  EXPECT_EQ(w.as->find_region(a + 3 * kMiB)->huge, Region::Huge::Always);
  ASSERT_TRUE(w.cpu().store(a + 3 * kMiB, 1));
  EXPECT_EQ(w.as->usage().data_blocks_2m, 1u);
  ASSERT_TRUE(w.as->advise(a, 8 * kMiB, Advice::DontFork));
  EXPECT_TRUE(w.as->find_region(a + 3 * kMiB)->dont_fork);
  ASSERT_TRUE(w.as->advise(a, 8 * kMiB, Advice::DoFork));
  EXPECT_FALSE(w.as->find_region(a)->dont_fork);
  EXPECT_TRUE(w.as->advise(a, 8 * kMiB, Advice::WillNeed));
  w.check_empty();
}

TEST_P(Remap, Advice_to_populate_maps_or_says_why_not) {
  World w(GetParam());
  const Gva a = w.map_at(0x1000'0000, 0x10000, kRead);
  EXPECT_TRUE(w.as->advise(a, 0x10000, Advice::PopulateRead));
  EXPECT_EQ(w.frames(), 16u);
  EXPECT_EQ(w.as->advise(a, 0x10000, Advice::PopulateWrite), fail(Error::NotPermitted));
  EXPECT_EQ(w.as->advise(a, 0x11000, Advice::PopulateRead), fail(Error::NotMapped));
  EXPECT_EQ(w.as->advise(a, 0x11000, Advice::DontNeed), fail(Error::NotMapped));
  EXPECT_EQ(w.as->advise(a + 1, 0x1000, Advice::DontNeed), fail(Error::Invalid));
  w.check_empty();
}

TEST_P(Remap, Residency_does_not_count_what_was_mapped_ahead) {
  for (const bool eager : {false, true}) {
    World w(GetParam(), {.config = {.eager_accessed_dirty = eager, .around_pages = 8}});
    const Gva a = w.map(0x8000);
    std::vector<std::uint8_t> out(8, 0xff);
    const auto residency = [&] {
      EXPECT_TRUE(w.as->residency(a, 0x8000, out));
      return out;
    };
    const auto pages = [](std::initializer_list<std::uint8_t> there) { return std::vector<std::uint8_t>(there); };
    ASSERT_TRUE(w.cpu().store(a + 0x3000, 1));
    ASSERT_EQ(w.as->usage().data_pages_4k, 8u) << "all of it was mapped";
    EXPECT_EQ(residency(), pages({0, 0, 0, 1, 0, 0, 0, 0}));
    ASSERT_TRUE(w.cpu().store(a + 0x5000, 1));
    EXPECT_EQ(residency(), pages({0, 0, 0, 1, 0, 1, 0, 0}));
    // It stays so whatever the protection, and goes with the page.
    for (const Prot prot : {Prot::None, Prot::Read, Prot::Read | Prot::Write}) {
      ASSERT_TRUE(w.as->protect(a, 0x8000, prot));
      EXPECT_EQ(residency(), pages({0, 0, 0, 1, 0, 1, 0, 0}));
    }
    ASSERT_TRUE(w.as->advise(a + 0x2000, 0x2000, Advice::DontNeed));
    ASSERT_TRUE(w.cpu().store(a + 0x2000, 1));
    EXPECT_EQ(residency(), pages({0, 0, 1, 0, 0, 1, 0, 0}));
    // What is populated was asked for.
    ASSERT_TRUE(w.as->advise(a + 0x6000, 0x1000, Advice::PopulateRead));
    EXPECT_EQ(residency(), pages({0, 0, 1, 0, 0, 1, 1, 0}));
  }
}

TEST_P(Remap, Residency_tells_mapped_pages_from_untouched_ones) {
  World w(GetParam(), {.config = {.around_pages = 1}});
  const Gva a = w.map(0x8000);
  ASSERT_TRUE(w.cpu().store(a + 0x3000, 1));
  std::vector<std::uint8_t> out(8, 0xff);
  ASSERT_TRUE(w.as->residency(a, 0x8000, out));
  EXPECT_EQ(out, (std::vector<std::uint8_t>{0, 0, 0, 1, 0, 0, 0, 0}));
  EXPECT_EQ(w.as->residency(a, 0x9000, out), fail(Error::Invalid));
  EXPECT_EQ(w.as->residency(a - 0x1000, 0x8000, out), fail(Error::NotMapped));
  EXPECT_EQ(w.as->residency(a + 1, 0x1000, out), fail(Error::Invalid));
}

}  // namespace
}  // namespace ramet::mm::test
