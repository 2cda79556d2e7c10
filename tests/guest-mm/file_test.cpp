// File-backed regions, private and shared, for every entry format.
#include <gtest/gtest.h>

#include "tests/guest-mm/world.hpp"

namespace ramet::mm::test {
namespace {

class File : public ForEachFormat {};
RAMET_FOR_EACH_FORMAT(File);

struct FileWorld : World {
  explicit FileWorld(Format f, std::uint64_t size = kMiB) : World(f), file(std::make_shared<TestFile>(*memory, size)) {}
  Gva map_file(std::uint64_t length, Prot prot, bool is_shared, std::uint64_t offset = 0) {
    const auto at = as->map({.length = length, .prot = prot, .shared = is_shared, .backing = file, .offset = offset});
    EXPECT_TRUE(at);
    return at.value_or(0);
  }
  std::shared_ptr<TestFile> file;
};

TEST_P(File, A_private_mapping_reads_the_object_and_writes_to_itself_alone) {
  FileWorld w(GetParam());
  const Gva a = w.map_file(kMiB, kReadWrite, false, 0x3000);
  EXPECT_EQ(w.cpu().load(a + 0x5010), TestFile::word_at(0x8010));
  ASSERT_TRUE(w.cpu().store(a + 0x5010, 1));
  EXPECT_EQ(w.file->bytes()[0x8010], TestFile::byte_at(0x8010));
  EXPECT_GT(w.frames(), 0u);
  EXPECT_GT(w.as->counters().faults_file, 0u);
  w.check_empty();
}

TEST_P(File, A_shared_mapping_is_the_object_itself) {
  FileWorld w(GetParam());
  const Gva a = w.map_file(kMiB, kReadWrite, true, 0x2000);
  EXPECT_EQ(w.cpu().load(a), TestFile::word_at(0x2000));
  ASSERT_TRUE(w.cpu().store(a, 0x55));
  EXPECT_EQ(w.file->bytes()[0x2000], std::byte{0x55});
  EXPECT_EQ(w.frames(), 0u);
  EXPECT_GT(w.as->usage().shared_pages, 0u);
  ASSERT_TRUE(w.as->sync(a, 0x3000, true));
  EXPECT_EQ(w.file->synced, (std::vector<std::pair<std::uint64_t, std::uint64_t>>{{0x2000, 0x3000}}));
  EXPECT_EQ(w.as->sync(a - kMiB, 0x1000, true), fail(Error::NotMapped));
  w.check_empty();
}

TEST_P(File, A_shared_mapping_grows_through_a_larger_bank_of_the_same_object) {
  FileWorld w(GetParam());
  const auto larger = std::make_shared<TestFile>(*w.memory, 2 * kMiB);
  for (const bool moves : {false, true}) {
    const Gva a = w.map_file(kMiB, kReadWrite, true);
    EXPECT_EQ(w.cpu().load(a), TestFile::word_at(0));
    const Gva wall = moves ? w.map_at(a + kMiB, kPageSize) : 0;
    RemapRequest request{.address = a + 0x1000,
                         .old_length = kMiB - 0x1000,
                         .new_length = 2 * kMiB - 0x1000,
                         .may_move = moves,
                         .backing = larger,
                         .in_place_of = larger};
    EXPECT_EQ(w.as->remap(request), fail(Error::NotMapped)) << "it is another object's";
    request.in_place_of = w.file;
    const auto b = w.as->remap(request);
    ASSERT_TRUE(b);
    EXPECT_EQ(*b == a + 0x1000, !moves);
    EXPECT_EQ(w.cpu().load(*b), TestFile::word_at(0x1000));
    EXPECT_EQ(w.cpu().load(*b + 2 * kMiB - 0x2000), TestFile::word_at(2 * kMiB - 0x1000));
    EXPECT_EQ(w.cpu().load(a), TestFile::word_at(0)) << "what was not asked to grow stays";
    ASSERT_TRUE(w.as->unmap(a, kPageSize));
    ASSERT_TRUE(w.as->unmap(*b, 2 * kMiB - 0x1000));
    if (wall) {
      ASSERT_TRUE(w.as->unmap(wall, kPageSize));
    }
  }
  w.check_empty();
}

TEST_P(File, Reading_a_file_in_order_takes_few_faults_and_few_reads) {
  FileWorld w(GetParam(), 8 * kMiB);
  const Gva a = w.map_file(8 * kMiB, kRead, false);
  for (Gva at = 0; at < 8 * kMiB; at += kPageSize) ASSERT_EQ(w.cpu().load(a + at), TestFile::word_at(at));
  EXPECT_LE(w.as->counters().faults, 8u);
  EXPECT_EQ(w.as->counters().pages_mapped, 2048u);
  w.check_empty();
}

TEST_P(File, Pages_beyond_the_end_fault_and_the_tail_of_the_last_page_is_zero) {
  FileWorld w(GetParam(), 0x2800);
  for (const bool shared : {false, true}) {
    const Gva a = w.map_file(0x5000, kRead, shared);
    EXPECT_EQ(w.cpu().load(a + 0x2000), TestFile::word_at(0x2000));
    EXPECT_EQ(w.cpu().load(a + 0x2ff8), 0u);
    EXPECT_EQ(w.cpu().load(a + 0x3000), fail(Error::BeyondEnd));
    std::vector<std::byte> all(0x5000);
    EXPECT_EQ(w.as->read(a, all), fail(Error::BeyondEnd));
  }
  w.check_empty();
}

TEST_P(File, A_file_that_cannot_be_read_gives_an_error_and_takes_no_frame) {
  FileWorld w(GetParam());
  const Gva a = w.map_file(kMiB, kRead, false);
  w.file->broken = true;
  EXPECT_EQ(w.cpu().load(a), fail(Error::Io));
  EXPECT_EQ(w.frames(), 0u);
  w.check();
  w.file->broken = false;
  EXPECT_EQ(w.cpu().load(a), TestFile::word_at(0));
  w.check_empty();
}

TEST_P(File, Memory_given_up_is_read_from_the_file_again) {
  FileWorld w(GetParam());
  const Gva a = w.map_file(kMiB, kReadWrite, false);
  ASSERT_TRUE(w.cpu().store(a, 1));
  ASSERT_TRUE(w.as->advise(a, kMiB, Advice::DontNeed));
  EXPECT_EQ(w.cpu().load(a), TestFile::word_at(0));
  EXPECT_EQ(w.as->advise(a, kMiB, Advice::Free), fail(Error::Invalid));
  w.check_empty();
}

TEST_P(File, When_a_file_shrinks_its_lost_pages_fault_again) {
  FileWorld w(GetParam(), 0x8000);
  const Gva shared = w.map_file(0x6000, kRead, true, 0x2000), priv = w.map_file(0x8000, kReadWrite, false);
  EXPECT_TRUE(w.cpu().load(shared));
  EXPECT_TRUE(w.cpu().load(priv + 0x7000));
  w.file->shrink(0x3800);
  w.as->truncated(*w.file, 0x3800);
  EXPECT_EQ(w.cpu().load(shared + 0x2000), fail(Error::BeyondEnd));
  EXPECT_EQ(w.cpu().load(shared + 0x5000), fail(Error::BeyondEnd));
  EXPECT_EQ(w.cpu().load(shared + 0x1000), TestFile::word_at(0x3000));
  EXPECT_EQ(w.cpu().load(priv + 0x7000), fail(Error::BeyondEnd));
  EXPECT_TRUE(w.cpu().load(priv + 0x3000));
  w.check();
  w.as->truncated(*w.file, 0);
  EXPECT_EQ(w.frames(), 0u);
  EXPECT_EQ(w.as->usage().shared_pages, 0u);
  w.check_empty();
}

TEST_P(File, A_file_truncated_behind_our_back_is_an_error_for_the_VMM_not_its_death) {
  FileWorld w(GetParam(), 0x4000);
  const Gva a = w.map_file(0x4000, kReadWrite, true);
  EXPECT_TRUE(w.cpu().load(a + 0x2000));
  w.file->shrink(0x1000);  // and nobody told the address space
  std::vector<std::byte> bytes(0x1000);
  EXPECT_TRUE(w.as->read(a, bytes));
  EXPECT_EQ(w.as->read(a + 0x2000, bytes), fail(Error::BeyondEnd));
  EXPECT_EQ(w.as->write(a + 0x2000, bytes), fail(Error::BeyondEnd));
  const auto word = w.as->word(a + 0x2ff8);
  ASSERT_TRUE(word);
  EXPECT_EQ(word->load(), fail(Error::BeyondEnd));
  EXPECT_EQ(word->compare_exchange(0, 1), fail(Error::BeyondEnd));
}

TEST_P(File, An_object_that_the_host_may_only_read_is_an_error_for_the_VMM_that_writes) {
  FileWorld w(GetParam(), 0x4000);
  const Gva a = w.map_file(0x4000, kReadWrite, true);
  ASSERT_EQ(::mprotect(w.file->bytes(), 0x4000, PROT_READ), 0);  // whatever the region says
  std::vector<std::byte> bytes(0x1000);
  EXPECT_TRUE(w.as->read(a, bytes));
  EXPECT_EQ(w.as->write(a, bytes), fail(Error::BeyondEnd));
  const auto word = w.as->word(a);
  ASSERT_TRUE(word);
  EXPECT_TRUE(word->load());
  EXPECT_EQ(word->compare_exchange(0, 1), fail(Error::BeyondEnd));
}

TEST_P(File, Regions_of_one_file_merge_when_offsets_go_on) {
  FileWorld w(GetParam());
  const auto put = [&](Gva at, std::uint64_t offset) {
    ASSERT_TRUE(w.as->map(
        {.address = at, .length = 0x2000, .prot = kRead, .fixed = true, .backing = w.file, .offset = offset}));
  };
  put(0x100000, 0x4000);
  put(0x102000, 0x6000);
  put(0x104000, 0x9000);
  EXPECT_EQ(w.as->find_region(0x100000)->end, 0x104000u);
  ASSERT_TRUE(w.as->unmap(0x101000, 0x1000));
  EXPECT_EQ(w.as->find_region(0x102000)->offset, 0x6000u);
  EXPECT_EQ(w.cpu().load(0x103000), TestFile::word_at(0x7000));
  w.check_empty();
}

TEST_P(File, Moving_a_file_region_keeps_its_offsets) {
  FileWorld w(GetParam());
  const Gva a = w.map_file(0x8000, kReadWrite, false, 0x4000);
  ASSERT_TRUE(w.cpu().store(a + 0x3000, 7));
  const auto b = w.as->remap({.address = a + 0x2000, .old_length = 0x4000, .new_length = 0x9000, .may_move = true});
  ASSERT_TRUE(b);
  EXPECT_EQ(w.cpu().load(*b + 0x1000), 7u);
  EXPECT_EQ(w.cpu().load(*b + 0x8000), TestFile::word_at(0xe000));
  EXPECT_EQ(w.cpu().load(a + 0x6000), TestFile::word_at(0xa000));
  w.check_empty();
}

TEST_P(File, The_last_unmapping_lets_go_of_the_object_after_the_lock) {
  FileWorld w(GetParam());
  const std::weak_ptr<TestFile> watch = w.file;
  const Gva a = w.map_file(kMiB, kReadWrite, true);
  EXPECT_TRUE(w.cpu().load(a));
  w.file.reset();
  EXPECT_FALSE(watch.expired());
  ASSERT_TRUE(w.as->unmap(a, kMiB));
  EXPECT_TRUE(watch.expired());
  EXPECT_EQ(w.memory->host(Memory::kAddedBase), nullptr);
  w.check_empty();
}

// An object that counts how often it is asked for its bank, as whoever looks for other regions of it asks each.
struct AskedFile : TestFile {
  AskedFile(Memory& memory, std::uint64_t& asked_) : TestFile(memory, kPageSize), asked(asked_) {}
  Shared shared() const override {
    ++asked;
    return TestFile::shared();
  }
  std::uint64_t& asked;
};

TEST_P(File, Shared_mappings_are_taken_down_in_steps_that_follow_their_number) {
  const auto steps = [&](unsigned mappings) {
    World w(GetParam());
    std::uint64_t asked = 0;
    std::vector<Gva> at;
    for (unsigned i = 0; i < mappings; ++i) {
      const auto file = std::make_shared<AskedFile>(*w.memory, asked);
      at.push_back(*w.as->map({.length = kPageSize, .prot = kReadWrite, .shared = true, .backing = file}));
      EXPECT_TRUE(w.cpu().store(at.back(), i));
    }
    asked = 0;
    for (const Gva a : at) EXPECT_TRUE(w.as->unmap(a, kPageSize));
    EXPECT_EQ(w.memory->host(Memory::kAddedBase), nullptr);  // where the first one's bank was
    w.check_empty();
    return asked;
  };
  const std::uint64_t few = steps(64), many = steps(512);
  EXPECT_LE(many, 8 * few);
}

TEST_P(File, A_shared_region_in_pieces_keeps_its_bank_until_the_last_is_gone) {
  FileWorld w(GetParam());
  const Gva a = w.map_file(kMiB, kReadWrite, true);
  ASSERT_TRUE(w.cpu().store(a, 1));
  ASSERT_TRUE(w.as->protect(a + 0x4000, 0x1000, kRead));                     // three regions
  ASSERT_TRUE(w.as->unmap(a + 0x8000, 0x1000));                              // four
  ASSERT_TRUE(w.as->protect(a + 0x4000, 0x1000, kReadWrite));                // and the first two are one again
  const auto moved = w.as->remap(
      {.address = a, .old_length = 0x8000, .new_length = 0x8000, .may_move = true, .dont_unmap = true});
  ASSERT_TRUE(moved);                                                        // twice the first one
  ASSERT_TRUE(w.as->unmap(a, kMiB));
  EXPECT_NE(w.memory->host(Memory::kAddedBase), nullptr);
  EXPECT_EQ(w.cpu().load(*moved), 1u);
  ASSERT_TRUE(w.as->unmap(*moved, 0x8000));
  EXPECT_EQ(w.memory->host(Memory::kAddedBase), nullptr);
  w.check_empty();
}

TEST_P(File, An_object_that_cannot_be_shared_is_refused) {
  struct PrivateOnly : Backing {
    std::uint64_t size() const override { return 0x1000; }
    Result<> read(std::uint64_t, std::span<std::byte> dst) override {
      std::memset(dst.data(), 1, dst.size());
      return {};
    }
  };
  World w(GetParam());
  const auto file = std::make_shared<PrivateOnly>();
  EXPECT_EQ(w.as->map({.length = 0x1000, .prot = kRead, .shared = true, .backing = file}), fail(Error::Invalid));
  EXPECT_TRUE(w.as->map({.length = 0x1000, .prot = kRead, .backing = file}));
}

}  // namespace
}  // namespace ramet::mm::test
