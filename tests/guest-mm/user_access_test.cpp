// Guest memory as system calls use it, with the arguments of a hostile program.
#include <gtest/gtest.h>

#include "tests/guest-mm/world.hpp"

namespace ramet::mm::test {
namespace {

class UserAccess : public ForEachFormat {};
RAMET_FOR_EACH_FORMAT(UserAccess);

std::span<const std::byte> bytes_of(const std::string& s) { return std::as_bytes(std::span(s)); }

TEST_P(UserAccess, Reads_and_writes_fault_pages_in_and_see_the_same_memory_as_the_guest) {
  World w(GetParam());
  const Gva a = w.map(4 * kMiB);
  std::vector<std::byte> out(3 * kMiB), in(3 * kMiB, std::byte{0x5a});
  EXPECT_TRUE(w.as->write(a + 0x123, in));
  EXPECT_EQ(w.cpu().load(a + kMiB), 0x5a5a5a5a5a5a5a5au);
  EXPECT_TRUE(w.as->read(a + 0x123, out));
  EXPECT_EQ(in, out);
  EXPECT_EQ(w.as->counters().faults_vmm, w.as->counters().faults);
  w.check_empty();
}

TEST_P(UserAccess, The_regions_protection_holds_for_the_VMM_too) {
  World w(GetParam());
  const Gva ro = w.map_at(0x1000'0000, 0x1000, kRead);
  w.map_at(0x1000'1000, 0x1000, Prot::None);
  std::byte b[16] = {};
  EXPECT_TRUE(w.as->read(ro, b));
  EXPECT_EQ(w.as->write(ro, b), fail(Error::NotPermitted));
  EXPECT_EQ(w.as->read(ro + 0x1000, b), fail(Error::NotPermitted));
  EXPECT_EQ(w.as->read(ro + 0xff8, b), fail(Error::NotPermitted));
  EXPECT_EQ(w.as->read(ro + 0x2000, b), fail(Error::NotMapped));
  EXPECT_EQ(w.as->read(~0ull - 3, b), fail(Error::NotMapped));
  EXPECT_EQ(w.as->write(0, b), fail(Error::NotMapped));
  EXPECT_TRUE(w.as->read(0, {}));
  w.check_empty();
}

TEST_P(UserAccess, Addresses_that_alias_in_the_tables_are_refused) {
  World w(GetParam());
  const Gva a = w.map(0x1000);
  ASSERT_TRUE(w.cpu().store(a, 1));
  std::byte b[8];
  EXPECT_EQ(w.as->read(a + (1ull << 48), b), fail(Error::NotMapped));
  std::vector<HostRange> out;
  EXPECT_EQ(w.as->gather(a | 0xffff'0000'0000'0000, 8, Access::Read, out), fail(Error::NotMapped));
}

TEST_P(UserAccess, Writing_to_code_that_flips_takes_execution_away) {
  World w(GetParam());
  const Gva a = w.map(0x1000, kAllProt);
  EXPECT_EQ(w.cpu().fetch(a), 0u);
  const std::uint64_t code = 0xc3;
  ASSERT_TRUE(w.as->write(a, std::as_bytes(std::span(&code, 1))));
  w.check();
  EXPECT_EQ(w.cpu().fetch(a), 0xc3u);
}

TEST_P(UserAccess, Strings_end_at_their_zero_even_at_the_end_of_memory) {
  World w(GetParam());
  const Gva a = w.map_at(0x1000'0000, 0x2000);
  ASSERT_TRUE(w.as->write(a + 0x1ffc, bytes_of("abc")));
  EXPECT_EQ(w.as->read_string(a + 0x1ffc, 100), "abc");
  ASSERT_TRUE(w.as->write(a + 0xffe, bytes_of("over the edge")));
  EXPECT_EQ(w.as->read_string(a + 0xffe, 100), "over the edge");
  EXPECT_EQ(w.as->read_string(a + 0xffe, 13), "over the edge");
  EXPECT_EQ(w.as->read_string(a + 0xffe, 12), fail(Error::Invalid));
  ASSERT_TRUE(w.as->write(a + 0x1ffc, bytes_of("abcd")));
  EXPECT_EQ(w.as->read_string(a + 0x1ffc, 100), fail(Error::NotMapped));
  EXPECT_EQ(w.as->read_string(a, 0), "");
  w.check_empty();
}

TEST_P(UserAccess, Gathering_gives_one_piece_for_memory_in_one_piece) {
  World w(GetParam(), {.data = 64 * kMiB});
  const Gva a = w.map(16 * kMiB);
  std::vector<HostRange> out;
  EXPECT_EQ(w.as->gather(a + 5, 6 * kMiB, Access::Write, out), 6 * kMiB);
  EXPECT_LE(out.size(), 4u);
  std::uint64_t sum = 0;
  for (const auto& r : out) sum += r.bytes.size();
  EXPECT_EQ(sum, 6 * kMiB);
  as_device(out.front())[3] = std::byte{7};  // the byte at a + 8
  EXPECT_EQ(w.cpu().load(a + 8), 7u);
  w.check_empty();
}

TEST_P(UserAccess, Gathering_stops_where_memory_stops) {
  World w(GetParam());
  const Gva a = w.map_at(0x1000'0000, 0x3000);
  std::vector<HostRange> out;
  EXPECT_EQ(w.as->gather(a + 0x10, ~0ull, Access::Read, out), 0x2ff0u);
  EXPECT_EQ(w.as->gather(a + 0x3000, 16, Access::Read, out), fail(Error::NotMapped));
  EXPECT_EQ(w.as->gather(a, 0, Access::Read, out), 0u);
}

TEST_P(UserAccess, Gathering_more_than_there_is_memory_ends_with_what_there_is) {
  World w(GetParam(), {.data = 8 * kMiB});
  const Gva a = w.map(1ull << 40);
  std::vector<HostRange> out;
  const auto got = w.as->gather(a, 1ull << 40, Access::Write, out);
  ASSERT_TRUE(got);
  EXPECT_EQ(*got, 8 * kMiB);
  EXPECT_LE(out.size(), 1024u);
  w.check_empty();
}

TEST_P(UserAccess, Gathering_scattered_pages_is_bounded_by_pieces) {
  World w(GetParam(), {.data = 32 * kMiB, .config = {.blocks = false, .around_pages = 1}});
  const Gva a = w.map(4000 * kPageSize);
  for (Gva at = 0; at < 4000; at += 2) ASSERT_TRUE(w.cpu().store(a + at * kPageSize, 1));
  std::vector<HostRange> out(5);
  const auto got = w.as->gather(a, 4000 * kPageSize, Access::Write, out);
  ASSERT_TRUE(got);
  EXPECT_EQ(out.size(), 5u + 1024);
  EXPECT_EQ(*got, 1024 * kPageSize);
}

TEST_P(UserAccess, A_word_is_the_guests_own_memory) {
  World w(GetParam());
  const Gva a = w.map(0x1000), ro = w.map(0x1000, kRead);
  const auto word = w.as->word(a + 4);
  ASSERT_TRUE(word);
  EXPECT_FALSE(word->shared());
  EXPECT_EQ(word->compare_exchange(0, 9), 0u);
  EXPECT_EQ(word->compare_exchange(0, 10), 9u);
  EXPECT_EQ(w.cpu().load(a), 9ull << 32);
  EXPECT_EQ(word->load(), 9u);
  EXPECT_EQ(w.as->word(a + 2).error(), Error::Invalid);
  EXPECT_EQ(w.as->word(ro).error(), Error::NotPermitted);
  EXPECT_TRUE(w.as->word(ro, Access::Read));
  EXPECT_EQ(w.as->word(4).error(), Error::NotMapped);
}

// Waiting at it needs no more than reading; whoever waits must be found where the page is written later.
TEST_P(UserAccess, A_word_of_inherited_read_only_memory_is_the_VMs_own_from_then_on) {
  Genet g(GetParam(), {.blocks = false});
  auto parent = g.make();
  const Gva a = parent->map(kMiB);
  ASSERT_TRUE(parent->cpu().store(a, 1));
  auto child = g.child(*parent->as->freeze());
  for (World* w : {child.get(), parent.get()}) {
    ASSERT_TRUE(w->as->protect(a, kMiB, kRead));
    EXPECT_EQ(w->as->word(a).error(), Error::NotPermitted);
    const auto word = w->as->word(a, Access::Read);
    ASSERT_TRUE(word);
    EXPECT_FALSE(word->shared());
    EXPECT_EQ(word->load(), 1u);
    EXPECT_EQ(w->as->pins(), 1);
    ASSERT_TRUE(w->as->protect(a, kMiB, kReadWrite));
    ASSERT_TRUE(w->cpu().store(a, w == parent.get() ? 2 : 3));
    EXPECT_EQ(word->load(), w == parent.get() ? 2u : 3u);
  }
  EXPECT_EQ(child->cpu(1).load(a), 3u);
  EXPECT_EQ(parent->cpu(1).load(a), 2u);
  EXPECT_EQ(parent->as->pins() + child->as->pins(), 0);
  parent->check();
  child->check();
}

TEST_P(UserAccess, A_word_that_others_see_is_not_pinned_as_if_it_were_the_VMs_own) {
  Genet g(GetParam(), {.blocks = false});
  auto parent = g.make();
  const Gva a = parent->map(kMiB);
  ASSERT_TRUE(parent->cpu().store(a, 1));
  ASSERT_TRUE(parent->as->protect(a, kMiB, kRead));
  auto child = g.child(*parent->as->freeze());
  const auto word = parent->as->word(a, Access::Read);
  ASSERT_TRUE(parent->as->protect(a, kMiB, kReadWrite));
  ASSERT_TRUE(parent->cpu().store(a, 2));
  EXPECT_EQ(child->cpu().load(a), 1u);
  EXPECT_EQ(word->load(), 2u);
  parent->check();
  child->check();
}

// As after `snapshot run`: the data comes from a file, the tables are new.
TEST_P(UserAccess, A_word_of_restored_read_only_memory_is_the_VMs_own_from_then_on) {
  World w(GetParam());
  constexpr Gva a = 0x1000'0000;
  auto layer = std::make_shared<Layer>();
  std::vector<std::byte> bytes(kBlockSize + kPageSize, std::byte{5});
  auto* const at = reinterpret_cast<std::byte*>(align_up(reinterpret_cast<std::uintptr_t>(bytes.data()), kPageSize));
  layer->data = *w.memory->make_bank({at, kBlockSize}, {});
  layer->data_parts = {{layer->data->base(), layer->data->end()}};
  Region region;
  region.start = a, region.end = a + kBlockSize, region.prot = kRead;
  const Extent all{.start = a, .frame = layer->data->base(), .pages = 512};
  ASSERT_TRUE(w.as->restore(layer, 0x7fff'0000'0000, {&region, 1}, {&all, 1}));
  const auto word = w.as->word(a + kPageSize, Access::Read);
  ASSERT_TRUE(word);
  EXPECT_EQ(word->load(), 0x0505'0505u);
  EXPECT_EQ(w.as->pins(), 1);
  ASSERT_TRUE(w.as->protect(a, kBlockSize, kReadWrite));
  ASSERT_TRUE(w.cpu().store(a + kPageSize, 7));
  EXPECT_EQ(word->load(), 7u);
  w.check();
}

TEST_P(UserAccess, A_bank_stays_while_a_piece_of_it_is_in_use) {
  World w(GetParam());
  auto file = std::make_shared<TestFile>(*w.memory, 0x4000);
  const auto a = w.as->map({.length = 0x4000, .prot = kReadWrite, .shared = true, .backing = file});
  ASSERT_TRUE(a);
  std::vector<HostRange> out;
  EXPECT_EQ(w.as->gather(*a, 0x4000, Access::Read, out), 0x4000u);
  ASSERT_EQ(out.size(), 1u);
  ASSERT_TRUE(w.as->unmap(*a, 0x4000));
  file.reset();
  EXPECT_EQ(as_device(out[0])[0x3000], TestFile::byte_at(0x3000));
  w.check_empty();
}

// Physical addresses of two banks may follow each other; their host addresses do not.
TEST_P(UserAccess, No_piece_reaches_from_one_bank_into_the_next) {
  const auto space = std::make_shared<PhysicalSpace>();
  const World::Options options{.data = 2 * kMiB,
                               .config = {.blocks = false, .merge = false, .around_pages = 1},
                               .space = space};
  World parent(GetParam(), options);
  constexpr Gva a = 0x1000'0000;
  constexpr std::uint64_t kPages = 512, kBytes = (kPages + 2) * kPageSize;
  parent.map_at(a, kBytes);
  for (Gva i = 0; i < kPages; ++i) ASSERT_TRUE(parent.cpu().store(a + i * kPageSize, i));
  World child(GetParam(), options);
  World below(GetParam(), options);
  const auto first = parent.as->freeze();
  ASSERT_TRUE(child.as->adopt(*first));
  for (Gva i = kPages; i < kPages + 2; ++i) ASSERT_TRUE(child.cpu().store(a + i * kPageSize, i));
  const auto second = child.as->freeze();
  ASSERT_TRUE(below.as->adopt(*second));

  for (World* w : {&child, &below}) {
    unsigned extents = 0;
    w->as->visit_contents([&](const Region&, const Extent&) { ++extents; });
    ASSERT_EQ(extents, 1u) << "the frames do not follow each other: nothing is tested";
    std::vector<std::byte> read(kBytes);
    ASSERT_TRUE(w->as->read(a, read));
    std::vector<HostRange> gathered;
    ASSERT_EQ(w->as->gather(a, kBytes, Access::Read, gathered), kBytes);
    std::vector<std::byte> joined;
    for (const HostRange& r : gathered) joined.insert(joined.end(), as_device(r), as_device(r) + r.bytes.size());
    for (const auto& bytes : {read, joined}) {
      for (std::uint64_t i = 0; i < kPages + 2; ++i) {
        std::uint64_t word;
        std::memcpy(&word, &bytes[i * kPageSize], sizeof word);
        ASSERT_EQ(word, i);
      }
    }
  }
}

}  // namespace
}  // namespace ramet::mm::test
