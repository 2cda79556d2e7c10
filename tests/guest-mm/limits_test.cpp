// Running out of frames, of table pages, at every point: an ordinary error, and nothing lost or leaked.
#include <gtest/gtest.h>

#include "tests/guest-mm/world.hpp"

namespace ramet::mm::test {
namespace {

class Limits : public ForEachFormat {};
RAMET_FOR_EACH_FORMAT(Limits);

TEST_P(Limits, The_memory_limit_is_reached_exactly_and_freeing_helps) {
  World w(GetParam(), {.data = 4 * kMiB});
  const Gva a = w.map(8 * kMiB);
  std::uint64_t stored = 0;
  Gva at = a;
  for (; at < a + 8 * kMiB; at += kPageSize) {
    const auto done = w.cpu().store(at, 1);
    if (!done) {
      EXPECT_EQ(done, fail(Error::NoMemory));
      break;
    }
    ++stored;
  }
  EXPECT_EQ(stored, 1024u);  // in order, not one frame is wasted on what nobody touched
  EXPECT_EQ(w.as->usage().peak_bytes, w.as->usage().limit_bytes);
  w.check();
  ASSERT_TRUE(w.as->advise(a, kPageSize, Advice::DontNeed));
  EXPECT_TRUE(w.cpu().store(at, 1));
  EXPECT_EQ(w.cpu().store(at + kPageSize, 1), fail(Error::NoMemory));
  w.check_empty();
}

TEST_P(Limits, Neighbours_never_take_the_last_frames) {
  World w(GetParam(), {.data = 2 * kMiB});
  const Gva a = w.map(1ull << 30);
  // Pages far apart: with windows of 16 pages for each, 512 frames would last for 32 of them only.
  unsigned touched = 0;
  while (w.cpu().store(a + touched * 0x20'0000ull + 0x10'0000, 1)) ++touched;
  EXPECT_GT(touched, 32u);
  EXPECT_EQ(w.frames(), 512u);
  w.check_empty();
}

TEST_P(Limits, A_fault_without_table_pages_fails_and_works_when_there_are_some) {
  for (unsigned left = 0; left <= 3; ++left) {
    World w(GetParam(), {.tables = 2 * kMiB, .config = {.blocks = false}});
    const Gva a = w.map(0x4000);
    use_up_tables(w, left);
    EXPECT_EQ(w.cpu().store(a, 1), left < 3 ? Result<>(fail(Error::NoMemory)) : Result<>());
    EXPECT_EQ(w.frames(), left < 3 ? 0u : 4u);
    w.check();
  }
}

TEST_P(Limits, A_split_without_table_pages_fails_and_changes_nothing) {
  for (unsigned left = 0; left <= 2; ++left) {
    World w(GetParam(), {.tables = 2 * kMiB});
    const Gva a = w.map(8 * kMiB);
    for (Gva at = 0; at < 8 * kMiB; at += kBlockSize) ASSERT_TRUE(w.cpu().store(a + at, at + 1));
    use_up_tables(w, left);
    const Gva from = a + 0x1000, length = 4 * kMiB;  // two blocks to split
    const auto refused = Result<>(fail(Error::NoMemory));
    if (left < 2) {
      EXPECT_EQ(w.as->unmap(from, length), refused);
      EXPECT_EQ(w.as->protect(from, length, kRead), refused);
      EXPECT_EQ(w.as->protect(from, length, Prot::None), refused);
      EXPECT_EQ(w.as->advise(from, length, Advice::DontNeed), refused);
      EXPECT_EQ(w.as->remap({.address = from, .old_length = length, .new_length = 0x1000}), fail(Error::NoMemory));
      EXPECT_EQ(w.as->map({.address = from, .length = length, .prot = kRead, .fixed = true}), fail(Error::NoMemory));
      for (Gva at = 0; at < 8 * kMiB; at += kBlockSize) EXPECT_EQ(w.cpu(1).load(a + at), at + 1);
      EXPECT_TRUE(w.cpu(1).store(from, 1));
    } else {
      EXPECT_TRUE(w.as->protect(from, length, kRead));
      EXPECT_EQ(w.cpu(1).store(from, 1), fail(Error::NotPermitted));
    }
    w.check();
  }
}

TEST_P(Limits, A_move_without_table_pages_fails_and_everything_is_where_it_was) {
  for (unsigned left = 0; left <= 7; ++left) {
    World w(GetParam(), {.tables = 2 * kMiB});
    const Gva a = w.map(4 * kMiB);
    for (Gva at = 0; at < 4 * kMiB; at += kPageSize) ASSERT_TRUE(w.cpu().store(a + at, at + 1));
    use_up_tables(w, left);
    const Gva target = 0x1234'5000;
    const auto moved = w.as->remap({.address = a,
                                    .old_length = 4 * kMiB,
                                    .new_length = 4 * kMiB,
                                    .may_move = true,
                                    .fixed = true,
                                    .new_address = target});
    w.check();
    const Gva now = moved ? target : a;
    if (!moved) {
      EXPECT_EQ(moved, fail(Error::NoMemory));
    }
    for (Gva at = 0; at < 4 * kMiB; at += kPageSize) ASSERT_EQ(w.cpu(1).load(now + at), at + 1);
    // Two tables to split the blocks; a PUD, a PMD and three PTE tables at the target.
    EXPECT_EQ(moved.has_value(), left >= 7);
  }
}

TEST_P(Limits, Populate_at_map_takes_what_there_is_and_asked_for_later_says_what_is_missing) {
  World w(GetParam(), {.data = 2 * kMiB});
  const auto a = w.as->map({.length = 4 * kMiB, .prot = kReadWrite, .populate = true});
  ASSERT_TRUE(a);
  EXPECT_EQ(w.frames(), 512u);
  EXPECT_EQ(w.as->advise(*a, 4 * kMiB, Advice::PopulateWrite), fail(Error::NoMemory));
  w.check_empty();
}

TEST_P(Limits, System_call_buffers_meet_the_same_limit) {
  World w(GetParam(), {.data = 2 * kMiB});
  const Gva a = w.map(4 * kMiB);
  std::vector<std::byte> big(4 * kMiB);
  EXPECT_EQ(w.as->write(a, big), fail(Error::NoMemory));
  EXPECT_EQ(w.frames(), 512u);
  w.check_empty();
}

TEST_P(Limits, Files_meet_the_same_limit_with_frames_given_back_on_errors) {
  World w(GetParam(), {.data = 2 * kMiB});
  const auto file = std::make_shared<TestFile>(*w.memory, 4 * kMiB);
  const auto a = w.as->map({.length = 4 * kMiB, .prot = kRead, .backing = file});
  Gva at = *a;
  while (w.cpu().load(at)) at += kPageSize;
  EXPECT_EQ(at - *a, 2 * kMiB);
  w.check_empty();
}

TEST(MemoryLimits, Banks_that_cannot_be_had_are_refused) {
  EXPECT_EQ(Memory::create({1ull << 50, kMiB}).error(), Error::NoMemory);
  EXPECT_EQ(Memory::create({kMiB, 1ull << 50}).error(), Error::NoMemory);
  EXPECT_EQ(Memory::create({~0ull, kMiB}).error(), Error::NoMemory);
  const auto memory = std::move(*Memory::create({kMiB, kMiB}));
  EXPECT_EQ(memory->data().size(), kBlockSize);
  EXPECT_EQ(memory->add({}, {}).error(), Error::Invalid);
}

TEST(MemoryLimits, A_configuration_that_makes_no_sense_is_refused) {
  const auto memory = std::move(*Memory::create({kMiB, kMiB}));
  ModelTlb tlb(Format::X86_64Stage1);
  EXPECT_EQ(AddressSpace::create({.around_pages = 0}, *memory, tlb).error(), Error::Invalid);
  EXPECT_EQ(AddressSpace::create({.around_pages = 17}, *memory, tlb).error(), Error::Invalid);
  EXPECT_EQ(AddressSpace::create({.around_pages = 1024}, *memory, tlb).error(), Error::Invalid);
  EXPECT_EQ(AddressSpace::create({.start = 0}, *memory, tlb).error(), Error::Invalid);
  EXPECT_EQ(AddressSpace::create({.end = 1ull << 48}, *memory, tlb).error(), Error::Invalid);
}

}  // namespace
}  // namespace ramet::mm::test
