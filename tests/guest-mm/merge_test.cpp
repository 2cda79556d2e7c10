// Huge mappings that split and merge back: counts, rules, refusals, and both levels.
#include <gtest/gtest.h>

#include <random>

#include "tests/guest-mm/world.hpp"

namespace ramet::mm::test {
namespace {

class Merge : public ForEachFormat {
 protected:
  // Blocks, each with a word per page.
  Gva blocks(World& w, unsigned n) {
    const Gva a = w.map(n * kBlockSize);
    EXPECT_TRUE(w.as->advise(a, n * kBlockSize, Advice::Huge));
    for (Gva at = a; at < a + n * kBlockSize; at += kPageSize) EXPECT_TRUE(w.cpu().store(at, at));
    EXPECT_EQ(w.as->usage().data_blocks_2m, n);
    return a;
  }
  void expect_words(World& w, Gva a, std::uint64_t length) {
    for (Gva at = a; at < a + length; at += kPageSize) ASSERT_EQ(w.cpu(1).load(at), at);
  }
};
RAMET_FOR_EACH_FORMAT(Merge);

TEST_P(Merge, A_protection_restored_brings_the_block_back) {
  World w(GetParam());
  const Gva a = blocks(w, 2);
  ASSERT_TRUE(w.as->protect(a + 0x5000, kPageSize, kRead));
  EXPECT_EQ(w.as->usage().data_blocks_2m, 1u);
  EXPECT_EQ(w.cpu(1).store(a + 0x5000, 1).error(), Error::NotPermitted);
  w.check();
  const unsigned strict = w.tlb.strict;
  ASSERT_TRUE(w.as->protect(a + 0x5000, kPageSize, kReadWrite));
  EXPECT_EQ(w.as->usage().data_blocks_2m, 2u);
  EXPECT_EQ(w.as->counters().split_pmd, 1u);
  EXPECT_EQ(w.as->counters().merge_pmd, 1u);
  if (GetParam() == Format::X86_64Stage1) {
    EXPECT_EQ(w.tlb.strict, strict);  // the table's page rides along with a later flush
  }
  expect_words(w, a, 2 * kBlockSize);
  ASSERT_TRUE(w.cpu(1).store(a + 0x5000, 1));
  w.check();
  w.check_empty();
}

TEST_P(Merge, Switched_off_what_was_split_stays_split) {
  World w(GetParam(), {.config = {.merge = false}});
  const Gva a = blocks(w, 4);
  for (unsigned i = 0; i < 4; ++i) {
    ASSERT_TRUE(w.as->protect(a + i * kBlockSize, kPageSize, kRead));
    ASSERT_TRUE(w.as->protect(a + i * kBlockSize, kPageSize, kReadWrite));
  }
  EXPECT_EQ(w.as->usage().data_blocks_2m, 0u);
  EXPECT_EQ(w.as->usage().data_pages_4k, 2048u);
  w.check();
}

TEST_P(Merge, Pages_unmapped_and_mapped_again_return_to_their_place) {
  World w(GetParam());
  const Gva a = blocks(w, 2);
  for (const Gva hole : {a + 0x7000, a, a + kBlockSize - kPageSize}) {
    ASSERT_TRUE(w.as->unmap(hole, kPageSize));
    EXPECT_EQ(w.as->usage().data_blocks_2m, 1u);
    w.map_at(hole, kPageSize);
    ASSERT_TRUE(w.as->advise(hole, kPageSize, Advice::Huge));
    ASSERT_TRUE(w.cpu().store(hole, hole));
    EXPECT_EQ(w.as->usage().data_blocks_2m, 2u);
    expect_words(w, a, 2 * kBlockSize);
  }
  EXPECT_EQ(w.as->counters().merge_pmd, 3u);
  w.check();
  w.check_empty();
}

TEST_P(Merge, A_region_that_wants_small_pages_keeps_them) {
  World w(GetParam());
  const Gva a = blocks(w, 1);
  ASSERT_TRUE(w.as->advise(a, kBlockSize, Advice::NoHuge));
  ASSERT_TRUE(w.as->protect(a, kPageSize, kRead));
  ASSERT_TRUE(w.as->protect(a, kPageSize, kReadWrite));
  EXPECT_EQ(w.as->usage().data_blocks_2m, 0u);
  EXPECT_EQ(w.as->counters().merge_refused_keep_4k, 1u);
  ASSERT_TRUE(w.as->advise(a, kBlockSize, Advice::Huge));
  EXPECT_EQ(w.as->merge(a, kBlockSize), 1u);
  expect_words(w, a, kBlockSize);
  w.check();
}

TEST_P(Merge, A_block_never_reaches_over_two_regions) {
  World w(GetParam());
  const Gva a = blocks(w, 1);
  ASSERT_TRUE(w.as->advise(a + kMiB, kMiB, Advice::DontFork));  // another region, the same entries
  ASSERT_TRUE(w.as->protect(a, kPageSize, kRead));
  ASSERT_TRUE(w.as->protect(a, kPageSize, kReadWrite));
  EXPECT_EQ(w.as->usage().data_blocks_2m, 0u);
  EXPECT_EQ(w.as->counters().merge_refused_region, 1u);
  expect_words(w, a, kBlockSize);
  w.check();
}

TEST_P(Merge, Hidden_pages_do_not_merge_and_keep_what_they_hold) {
  World w(GetParam());
  const Gva a = blocks(w, 1);
  ASSERT_TRUE(w.as->protect(a + 0x9000, kPageSize, Prot::None));
  EXPECT_EQ(w.as->merge(a, kBlockSize), 0u);
  w.check();
  ASSERT_TRUE(w.as->protect(a + 0x9000, kPageSize, kReadWrite));
  EXPECT_EQ(w.as->usage().data_blocks_2m, 1u);
  expect_words(w, a, kBlockSize);
  w.check();
}

TEST_P(Merge, A_split_on_demand_merges_back_on_demand) {
  World w(GetParam());
  const Gva a = blocks(w, 4);
  ASSERT_TRUE(w.as->split(a, 4 * kBlockSize, arch::Level::Pte));
  EXPECT_EQ(w.as->usage().data_blocks_2m, 0u);
  expect_words(w, a, 4 * kBlockSize);
  EXPECT_EQ(w.as->merge(a, 4 * kBlockSize), 4u);
  EXPECT_EQ(w.as->usage().data_blocks_2m, 4u);
  expect_words(w, a, 4 * kBlockSize);
  EXPECT_EQ(w.as->split(a + 1, kPageSize, arch::Level::Pte).error(), Error::Invalid);
  w.check();
  w.check_empty();
}

TEST_P(Merge, A_split_without_a_table_to_be_had_changes_nothing) {
  World w(GetParam(), {.tables = 2 * kMiB});
  const Gva a = blocks(w, 4);
  use_up_tables(w, 0);
  EXPECT_EQ(w.as->protect(a + 0x5000, kPageSize, kRead).error(), Error::NoMemory);
  EXPECT_EQ(w.as->split(a, kBlockSize, arch::Level::Pte).error(), Error::NoMemory);
  EXPECT_EQ(w.as->usage().data_blocks_2m, 4u);
  ASSERT_TRUE(w.cpu().store(a + 0x5000, a + 0x5000));
  expect_words(w, a, 4 * kBlockSize);
  w.check();
}

TEST_P(Merge, After_random_protections_restored_every_block_is_back) {
  World w(GetParam());
  const Gva a = blocks(w, 8);
  std::mt19937 rng(7);
  std::vector<std::pair<Gva, std::uint64_t>> open;
  for (unsigned i = 0; i < 2000; ++i) {
    const Gva at = a + rng() % (8 * 512) * kPageSize;
    const std::uint64_t length = std::min<std::uint64_t>((1 + rng() % 20) * kPageSize, a + 8 * kBlockSize - at);
    ASSERT_TRUE(w.as->protect(at, length, rng() % 4 == 0 ? Prot::None : kRead));
    open.emplace_back(at, length);
    if (open.size() > 5) {
      ASSERT_TRUE(w.as->protect(open.front().first, open.front().second, kReadWrite));
      open.erase(open.begin());
    }
    if (i % 100 == 0) w.check();
  }
  for (const auto& [at, length] : open) ASSERT_TRUE(w.as->protect(at, length, kReadWrite));
  EXPECT_EQ(w.as->usage().data_blocks_2m, 8u);
  EXPECT_EQ(w.as->counters().split_pmd, w.as->counters().merge_pmd);
  EXPECT_GT(w.as->counters().merge_pmd, 100u);
  expect_words(w, a, 8 * kBlockSize);
  w.check();
  w.check_empty();
}

AddressSpace::Config with_giants() {
  AddressSpace::Config c;
  c.giants = true;
  return c;
}

class LinearMap : public ::testing::TestWithParam<Format> {};
INSTANTIATE_TEST_SUITE_P(Formats, LinearMap, ::testing::Values(Format::X86_64Stage1, Format::Arm64Stage1),
                         ::testing::PrintToStringParamName());

TEST_P(LinearMap, It_splits_and_heals_at_both_levels) {
  World w(GetParam(), {.data = 2048 * kMiB, .tables = 32 * kMiB, .config = with_giants()});
  ASSERT_TRUE(w.as->map_linear(kLinear));
  const auto giants = [&] {
    unsigned n = 0;
    w.as->dump([&](const AddressSpace::Node& node) { n += !node.table && node.level == arch::Level::Pud; });
    return n;
  };
  EXPECT_EQ(giants(), 2u);
  const Gpa page = w.memory->data().base() + 0x1234'5000;
  ASSERT_TRUE(w.as->protect_linear(page, kPageSize, kReadExec));
  EXPECT_EQ(giants(), 1u);
  const Counters& c = w.as->counters();
  EXPECT_EQ(c.split_pud, 1u);
  EXPECT_EQ(c.split_pmd, 1u);
  w.check();
  ASSERT_TRUE(w.as->protect_linear(page, kPageSize, kReadWrite));
  EXPECT_EQ(giants(), 2u);
  EXPECT_EQ(c.merge_pmd, 1u);
  EXPECT_EQ(c.merge_pud, 1u);
  w.check();
  EXPECT_EQ(w.as->usage().data_pages_4k + w.as->usage().data_blocks_2m, 0u);  // nobody's data
}

TEST_P(LinearMap, What_is_to_stay_in_small_pages_never_merges) {
  World w(GetParam(), {.data = 1024 * kMiB, .tables = 32 * kMiB, .config = with_giants()});
  ASSERT_TRUE(w.as->map_linear(kLinear));
  const Gpa page = w.memory->data().base() + 0x40'3000;
  ASSERT_TRUE(w.as->keep_linear_4k(page, kPageSize));
  ASSERT_TRUE(w.as->protect_linear(page, kPageSize, kRead));
  ASSERT_TRUE(w.as->protect_linear(page, kPageSize, kReadWrite));
  EXPECT_EQ(w.as->counters().merge_pmd, 0u);
  EXPECT_GE(w.as->counters().merge_refused_keep_4k, 1u);
  ASSERT_TRUE(w.as->protect_linear(page + 4 * kMiB, kPageSize, kRead));
  ASSERT_TRUE(w.as->protect_linear(page + 4 * kMiB, kPageSize, kReadWrite));
  EXPECT_EQ(w.as->counters().merge_pmd, 1u);
  EXPECT_EQ(w.as->counters().merge_pud, 0u);
  w.check();
}

TEST_P(LinearMap, Without_giant_pages_it_is_made_of_blocks) {
  World w(GetParam(), {.data = 64 * kMiB});
  ASSERT_TRUE(w.as->map_linear(kLinear));
  const Gpa page = w.memory->data().base();
  ASSERT_TRUE(w.as->protect_linear(page, kPageSize, kRead));
  ASSERT_TRUE(w.as->protect_linear(page, kPageSize, kReadWrite));
  EXPECT_EQ(w.as->counters().merge_pmd, 1u);
  EXPECT_EQ(w.as->counters().merge_refused_format, 0u);  // the table above is not full
  EXPECT_EQ(w.as->map_linear(kLinear).error(), Error::Exists);
  EXPECT_EQ(w.as->protect_linear(page + 64 * kMiB, kPageSize, kRead).error(), Error::Invalid);
  EXPECT_EQ(w.as->protect_linear(page, kPageSize, kAllProt).error(), Error::Invalid);
  w.check();
}

// Banks that follow each other in the guest's physical memory are neither one in the host's nor one VM's.
TEST_P(Merge, A_giant_never_reaches_from_one_bank_into_the_next) {
  constexpr Gpa kFrames = 0x80'0000'0000;
  constexpr Gva a = 1ull << 39;
  constexpr std::uint64_t kGiant = 1ull << 30;
  for (const std::uint64_t piece : {kGiant, kGiant / 2}) {
    std::shared_ptr<Layer> layer;
    for (Gpa base = kFrames; base < kFrames + kGiant; base += piece) {
      auto upper = std::make_shared<Layer>();
      upper->below = Layer::from(layer);
      upper->data = *Bank::anonymous(base, piece);
      upper->data_parts = {{base, base + piece}};
      layer = std::move(upper);
    }
    World w(GetParam(), {.config = with_giants()});
    Region region;
    region.start = a, region.end = a + kGiant;
    region.prot = kReadWrite, region.max_prot = kAllProt;
    const Extent all[] = {{a, kFrames, piece >> kPageShift}, {a + piece, kFrames + piece, piece >> kPageShift}};
    ASSERT_TRUE(w.as->restore(layer, a + kGiant, {&region, 1}, std::span(all, kGiant / piece)));
    ASSERT_TRUE(w.as->protect(a, kBlockSize, Prot::None));
    ASSERT_TRUE(w.as->protect(a, kBlockSize, kReadWrite));
    const Counters& c = w.as->counters();
    EXPECT_EQ(c.merge_pud, piece == kGiant ? 1u : 0u);
    EXPECT_EQ(c.merge_refused_alignment, piece == kGiant ? 0u : 1u);
    w.check();
  }
}

// A freeze sealed some of its blocks, the others were taken later: one leaf cannot say which may be written.
TEST_P(Merge, A_giant_is_not_made_of_blocks_that_children_see_and_others) {
  constexpr Gva a = 1ull << 39;
  constexpr std::uint64_t kGiant = 1ull << 30;
  const World::Options options{.data = 3 * kGiant, .config = with_giants(), .space = std::make_shared<PhysicalSpace>()};
  for (const std::uint64_t shared : {kGiant / 2, kGiant - kBlockSize}) {
    World w(GetParam(), options), child(GetParam(), options);
    w.map_at(a, kGiant, kRead);
    ASSERT_TRUE(w.as->advise(a, kGiant, Advice::Huge));
    // Blocks come from the end of the bank.
    const auto fill = [&](Gva start, Gva end) {
      for (Gva at = end; at > start; at -= kBlockSize) ASSERT_TRUE(w.as->fault(at - kBlockSize, Access::Read));
    };
    fill(a + kGiant - shared, a + kGiant);
    const auto snapshot = *w.as->freeze();
    ASSERT_TRUE(child.as->adopt(snapshot));
    fill(a, a + kGiant - shared);
    ASSERT_TRUE(w.as->protect(a, kBlockSize, Prot::None));
    ASSERT_TRUE(w.as->protect(a, kBlockSize, kRead));
    EXPECT_GE(w.as->counters().merge_refused_shared, 1u);
    EXPECT_EQ(w.as->counters().merge_pud, 0u);
    ASSERT_TRUE(w.as->protect(a, kGiant, kReadWrite));
    ASSERT_TRUE(w.cpu().store(a + kGiant - kBlockSize, 2));
    EXPECT_EQ(child.cpu().load(a + kGiant - kBlockSize), 0u);
    w.check();
    child.check();
  }
}

}  // namespace
}  // namespace ramet::mm::test
