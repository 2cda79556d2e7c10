// Layers: what is copied on write, how much is copied ahead, and what happens where there is no copy to be had.
#include <gtest/gtest.h>

#include <random>
#include <set>
#include <thread>

#include "guest-mm/frozen_memory.hpp"
#include "tests/guest-mm/layers.hpp"

namespace ramet::mm::test {
namespace {

TEST_P(Layers, A_copy_that_cannot_be_had_is_no_memory_and_the_page_stays) {
  Genet g(GetParam());
  auto parent = g.make();
  const Gva a = parent->map(4 * kMiB);
  write_words(*parent, a, 4 * kMiB, 1);
  const auto snapshot = *parent->as->freeze();
  World child(GetParam(), {.data = 2 * kMiB, .space = g.space});
  ASSERT_TRUE(child.as->adopt(snapshot));
  Gva at = a;
  while (child.cpu().store(at, at ^ 2)) at += kPageSize;
  EXPECT_EQ(at - a, 2 * kMiB);
  EXPECT_EQ(child.cpu().store(at, 1).error(), Error::NoMemory);
  expect_words(child, a, 2 * kMiB, 2);
  expect_words(child, at, 2 * kMiB, 1);
  child.check();
  child.check_empty();
}

TEST_P(Layers, Copies_are_made_without_the_lock_once_the_tables_are_there) {
  for (const bool speculative : {true, false}) {
    Genet g(GetParam(), {.blocks = false, .speculative_faults = speculative});
    auto parent = g.make();
    const Gva a = parent->map(2 * kMiB);
    write_words(*parent, a, 2 * kMiB, 1);
    auto child = g.child(*parent->as->freeze());
    for (Gva at = a; at < a + 2 * kMiB; at += 3 * kPageSize) ASSERT_TRUE(child->cpu().store(at, at ^ 2));
    const Counters& c = child->as->counters();
    EXPECT_EQ(c.faults_cow, c.faults);
    EXPECT_EQ(c.pages_copied, c.faults);
    EXPECT_EQ(c.spf, speculative ? c.faults - 1 : 0u);  // the first copied the tables
    child->check();
    child->check_empty();
  }
}

TEST_P(Layers, Pages_written_in_order_are_copied_ahead) {
  Genet g(GetParam());
  auto parent = g.make();
  const Gva a = parent->map(8 * kMiB);
  write_words(*parent, a, 8 * kMiB, 1);
  auto child = g.child(*parent->as->freeze());
  write_words(*child, a, 8 * kMiB, 2);
  EXPECT_LE(child->as->counters().faults, 80u);
  EXPECT_EQ(child->as->counters().pages_copied, 2048u);
  expect_words(*child, a, 8 * kMiB, 2);
  child->check();
}

TEST_P(Layers, Pages_between_those_written_are_copied_where_these_are_half) {
  for (const std::uint64_t stride : {2, 3, 16}) {
    Genet g(GetParam());
    auto parent = g.make();
    const Gva a = parent->map(8 * kMiB);
    write_words(*parent, a, 8 * kMiB, 1);
    auto child = g.child(*parent->as->freeze());
    write_words(*child, a, 8 * kMiB, 2, stride * kPageSize);
    const Counters& c = child->as->counters();
    if (stride == 2) {
      EXPECT_LE(c.faults, 4 * 50u);
      EXPECT_GT(c.pages_copied, 2000u);
    } else {
      EXPECT_EQ(c.pages_copied, c.faults);
    }
    for (Gva at = a; at < a + 8 * kMiB; at += kPageSize)
      ASSERT_EQ(child->cpu().load(at), at ^ ((at - a) / kPageSize % stride ? 1 : 2));
    expect_words(*parent, a, 8 * kMiB, 1);
    child->check();
    child->check_empty();
  }
}

// Wherever it writes: the more it has written, the more is copied ahead.
TEST_P(Layers, Few_writes_bring_few_copies) {
  Genet g(GetParam());
  auto parent = g.make();
  const Gva a = parent->map(8 * kMiB);
  write_words(*parent, a, 8 * kMiB, 1);
  auto child = g.child(*parent->as->freeze());
  std::minstd_rand random(1);
  std::set<Gva> written;
  const Counters& c = child->as->counters();
  double most = 0;
  while (written.size() < 1800) {
    const Gva at = a + random() % 2048 * kPageSize;
    ASSERT_TRUE(child->cpu().store(at, at ^ 2));
    written.insert(at);
    if (written.size() <= 100) {
      ASSERT_EQ(c.pages_copied, written.size());
    }
    most = std::max(most, double(c.pages_copied) / double(written.size()));
  }
  EXPECT_LE(most, 3);
  EXPECT_LT(c.faults, 1500u);
  for (Gva at = a; at < a + 8 * kMiB; at += kPageSize)
    ASSERT_EQ(child->cpu().load(at), at ^ (written.contains(at) ? 2 : 1));
  expect_words(*parent, a, 8 * kMiB, 1);
  child->check();
  child->check_empty();
}

// Every page of the limit can be written, though pages between would have been copied.
TEST_P(Layers, Nothing_is_copied_ahead_where_memory_is_short) {
  Genet g(GetParam(), {.limit_bytes = 4 * kMiB});
  auto parent = g.make();
  const Gva a = parent->map(4 * kMiB);
  write_words(*parent, a, 4 * kMiB, 1);
  auto child = g.child(*parent->as->freeze());
  const Gva more = child->map(2 * kMiB);
  write_words(*child, a, 4 * kMiB, 2, 2 * kPageSize);
  EXPECT_LE(child->as->counters().pages_copied, 1024u * 7 / 8);
  write_words(*child, more, kMiB / 4, 3);
  child->check();
  child->check_empty();
}

TEST_P(Layers, Blocks_are_copied_whole_where_the_program_wants_them) {
  Genet g(GetParam());
  auto parent = g.make();
  const Gva a = parent->map(8 * kMiB);
  ASSERT_TRUE(parent->as->advise(a, 8 * kMiB, Advice::Huge));
  write_words(*parent, a, 8 * kMiB, 1);
  auto child = g.child(*parent->as->freeze());
  for (Gva at = a; at < a + 8 * kMiB; at += kBlockSize) ASSERT_TRUE(child->cpu().store(at + 0x5000, 7));
  EXPECT_EQ(child->as->counters().faults, 4u);
  EXPECT_EQ(child->as->counters().spf, 3u);
  EXPECT_EQ(child->as->usage().data_blocks_2m, 4u);
  EXPECT_EQ(child->as->counters().split_pmd, 0u);
  expect_words(*child, a + 0x6000, kMiB, 1);
  expect_words(*parent, a, 8 * kMiB, 1);
  child->check();
  child->check_empty();
}

// Threads of a child write the same pages at once, and read what others wrote.
TEST_P(Layers, Copies_race_with_each_other_and_with_changes_of_the_region) {
  Genet g(GetParam());
  auto parent = g.make();
  constexpr std::uint64_t kPages = 1024;
  const Gva a = parent->map(kPages * kPageSize);
  write_words(*parent, a, kPages * kPageSize, 1);
  for (unsigned round = 0; round < scaled(40, 8); ++round) {
    World child(GetParam(), {.vcpus = 3, .space = g.space});
    ASSERT_TRUE(child.as->adopt(*parent->as->freeze()));
    std::vector<std::thread> writers;
    for (unsigned t = 0; t < 2; ++t) {
      writers.emplace_back([&, t] {
        for (std::uint64_t i = 0; i < kPages; ++i) {
          const Gva at = a + (i * 11 + round) % kPages * kPageSize;
          ASSERT_TRUE(child.cpu(t).store(at + 8 + 8 * t, i + 1));
          ASSERT_EQ(child.cpu(t).load(at + 8 + 8 * t), i + 1);
          ASSERT_EQ(child.cpu(t).load(at), at ^ 1);
        }
      });
    }
    std::thread changer([&] {
      for (unsigned i = 0; i < 200; ++i) {
        const Gva part = a + (i * 37 % 960) * kPageSize;
        ASSERT_TRUE(child.as->advise(part, 16 * kPageSize, Advice::DontFork));
        ASSERT_TRUE(child.as->advise(part, 16 * kPageSize, Advice::DoFork));
      }
    });
    for (auto& w : writers) w.join();
    changer.join();
    for (std::uint64_t i = 0; i < kPages; ++i) {
      const Gva at = a + (i * 11 + round) % kPages * kPageSize;
      ASSERT_EQ(child.cpu(2).load(at + 8), i + 1);
      ASSERT_EQ(child.cpu(2).load(at + 16), i + 1);
      ASSERT_EQ(parent->cpu().load(at + 8), 0u);
    }
    child.check();
  }
  parent->check();
}

// A mapped snapshot file that somebody cuts short while a VM runs from it.
TEST_P(Layers, What_cannot_be_read_any_more_is_an_error_for_whoever_would_copy_it) {
  constexpr Gpa kFrames = 0x80'0000'0000;
  constexpr Gva a = 0x4000'0000;
  constexpr std::uint64_t kBytes = 4 * kBlockSize, kLeft = kBytes / 2;
  for (const auto huge : {Region::Huge::Never, Region::Huge::Always}) {
    const int file = ::memfd_create("snapshot", MFD_CLOEXEC);
    ASSERT_EQ(::ftruncate(file, static_cast<off_t>(kBytes)), 0);
    auto* at = static_cast<std::byte*>(::mmap(nullptr, kBytes, PROT_READ, MAP_PRIVATE, file, 0));
    auto layer = std::make_shared<Layer>();
    layer->data = Bank::adopt(kFrames, {at, kBytes}, [at] { ::munmap(at, kBytes); }, true);
    layer->data_parts = {{kFrames, kFrames + kBytes}};
    World w(GetParam());
    Region region;
    region.start = a, region.end = a + kBytes;
    region.prot = kReadWrite, region.max_prot = kAllProt;
    region.huge = huge;
    const Extent all{a, kFrames, kBytes >> kPageShift};
    ASSERT_TRUE(w.as->restore(layer, a + kBytes, {&region, 1}, {&all, 1}));
    ASSERT_EQ(::ftruncate(file, static_cast<off_t>(kLeft)), 0);

    EXPECT_TRUE(w.cpu().store(a, 1));
    const std::uint64_t frames = w.frames();
    EXPECT_EQ(w.cpu().store(a + kLeft, 1), fail(Error::BeyondEnd));
    EXPECT_EQ(w.cpu().store(a + kBytes - 8, 1), fail(Error::BeyondEnd));
    std::byte bytes[16] = {};
    EXPECT_EQ(w.as->write(a + kLeft + 100, bytes), fail(Error::BeyondEnd));
    EXPECT_EQ(w.as->read(a + kLeft + 100, bytes), fail(Error::BeyondEnd));
    EXPECT_EQ(w.frames(), frames) << "a frame was kept for a copy that failed";
    w.check();
    ::close(file);
  }
}

}  // namespace
}  // namespace ramet::mm::test
