// Many vCPUs on their own host threads fault at once, while mappings change around and under them.
#include <gtest/gtest.h>

#include <barrier>
#include <thread>

#include "tests/guest-mm/world.hpp"

namespace ramet::mm::test {
namespace {

class Storm : public ForEachFormat {};
RAMET_FOR_EACH_FORMAT(Storm);

constexpr unsigned kThreads = 4;

template <class Body>
void on_threads(unsigned n, Body body) {
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < n; ++i) threads.emplace_back([&body, i] { body(i); });
  for (auto& t : threads) t.join();
}

TEST_P(Storm, All_vcpus_touch_the_same_fresh_pages_and_no_store_is_lost) {
  World w(GetParam(), {.vcpus = kThreads});
  for (int round = 0; round < 6; ++round) {
    const std::uint64_t length = round % 2 ? 4 * kMiB : 60 * kPageSize;
    const Gva a = w.map(length);
    std::barrier start(kThreads);
    on_threads(kThreads, [&](unsigned me) {
      start.arrive_and_wait();
      for (Gva at = 0; at < length; at += kPageSize) ASSERT_TRUE(w.cpu(me).store(a + at + 8 * me, at + me + 1));
    });
    for (Gva at = 0; at < length; at += kPageSize) {
      for (unsigned me = 0; me < kThreads; ++me) ASSERT_EQ(w.cpu().load(a + at + 8 * me), at + me + 1);
    }
    EXPECT_EQ(w.frames(), length / kPageSize);
    w.check();
    ASSERT_TRUE(w.as->unmap(a, length));
  }
  w.check_empty();
}

TEST_P(Storm, Maps_and_unmaps_elsewhere_disturb_nobody) {
  World w(GetParam(), {.vcpus = kThreads});
  const std::uint64_t length = 8 * kMiB;
  const Gva common = w.map(length);
  on_threads(kThreads, [&](unsigned me) {
    std::vector<std::uint64_t> expected(length / kPageSize);
    for (unsigned round = 0; round < scaled(60, 15); ++round) {
      // Everybody's own word of common pages must hold what was stored last.
      for (unsigned i = 0; i < 20; ++i) {
        const std::size_t page = (round * 7919 + i * 104729 + me * 31) % expected.size();
        const Gva at = common + page * kPageSize + 8 * me;
        ASSERT_EQ(w.cpu(me).load(at), expected[page]);
        expected[page] = round * 1000 + i + 1;
        ASSERT_TRUE(w.cpu(me).store(at, expected[page]));
      }
      // And a region of one's own comes and goes; frames pass from thread to thread and must be zero.
      const Gva own = *w.as->map({.length = (1 + round % 3) * kMiB, .prot = kReadWrite});
      for (Gva at = 0; at < kMiB; at += 0x21000) {
        ASSERT_EQ(w.cpu(me).load(own + at), 0u);
        ASSERT_TRUE(w.cpu(me).store(own + at, ~0ull));
      }
      ASSERT_TRUE(w.as->protect(own, 0x40000, kRead));
      ASSERT_EQ(w.cpu(me).store(own, 1), fail(Error::NotPermitted));
      ASSERT_TRUE(w.as->unmap(own, (1 + round % 3) * kMiB));
    }
  });
  w.check();
  w.check_empty();
}

TEST_P(Storm, Protection_that_changes_under_running_vcpus_is_obeyed_and_loses_nothing) {
  World w(GetParam(), {.vcpus = kThreads});
  const std::uint64_t length = 4 * kMiB;
  const Gva a = w.map(length);
  for (Gva at = 0; at < length; at += kPageSize) ASSERT_TRUE(w.cpu().store(a + at + 64, at));
  std::atomic<bool> done{false};
  std::thread changer([&] {
    for (unsigned round = 0; round < scaled(200, 50); ++round) {
      const Gva from = a + (round % 5) * 0x35000;
      const Prot prot = round % 3 == 0 ? Prot::None : round % 3 == 1 ? kRead : kReadWrite;
      EXPECT_TRUE(w.as->protect(from, 0x9d000, prot));
      if (round % 7 == 0) {
        EXPECT_TRUE(w.as->protect(a, length, kReadWrite));
      }
    }
    done = true;
  });
  on_threads(kThreads, [&](unsigned me) {
    std::uint64_t i = me;
    while (!done) {
      const Gva at = a + (i++ * 7919 % (length / kPageSize)) * kPageSize;
      const auto word = w.cpu(me).load(at + 64);
      if (word) {
        ASSERT_EQ(*word, at - a);
      } else {
        ASSERT_EQ(word.error(), Error::NotPermitted);
      }
      const auto stored = w.cpu(me).store(at + 128 + 8 * me, i);
      if (!stored) {
        ASSERT_EQ(stored.error(), Error::NotPermitted);
      }
    }
  });
  changer.join();
  ASSERT_TRUE(w.as->protect(a, length, kReadWrite));
  for (Gva at = 0; at < length; at += kPageSize) ASSERT_EQ(w.cpu().load(a + at + 64), at);
  w.check();
  w.check_empty();
}

TEST_P(Storm, Unmapping_under_running_vcpus_ends_in_faults_and_never_in_foreign_memory) {
  World w(GetParam(), {.vcpus = kThreads});
  const Gva a = 0x4000'0000;
  const std::uint64_t length = 4 * kMiB;
  std::atomic<bool> done{false};
  std::thread changer([&] {
    for (unsigned round = 0; round < scaled(150, 24); ++round) {
      switch (round % 3) {
        case 0: EXPECT_TRUE(w.as->map({.address = a, .length = length, .prot = kReadWrite, .fixed = true})); break;
        case 1: EXPECT_TRUE(w.as->advise(a + 0x5000, kMiB, Advice::DontNeed)); break;
        default: EXPECT_TRUE(w.as->unmap(a + (round % 4) * 0x10000, length / 2));
      }
      // Frames that were taken away hold somebody else's data now.
      const Gva other = w.map(2 * kMiB);
      for (Gva at = 0; at < 2 * kMiB; at += kPageSize) {
        std::byte secret[8];
        std::memset(secret, 0xee, 8);
        EXPECT_TRUE(w.as->write(other + at + 8 * 100, secret));
      }
      EXPECT_TRUE(w.as->unmap(other, 2 * kMiB));
    }
    done = true;
  });
  on_threads(kThreads, [&](unsigned me) {
    std::uint64_t i = me;
    while (!done) {
      const Gva at = a + (i++ * 7919 % (length / kPageSize)) * kPageSize;
      const auto word = w.cpu(me).load(at + 8 * 100);
      if (word) {
        ASSERT_EQ(*word, 0u);
      } else {
        ASSERT_EQ(word.error(), Error::NotMapped);
      }
      (void)w.cpu(me).store(at + 8 * me, 1);  // may be unmapped: what matters is where it does not land
    }
  });
  changer.join();
  w.check();
  w.check_empty();
}

}  // namespace
}  // namespace ramet::mm::test
