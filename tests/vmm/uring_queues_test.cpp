// The queues that a guest shares with us, from the side of a guest that writes what it likes into them.
#include "vmm/linux/uring/queues.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <fstream>
#include <string>

#include "arch/guarded.hpp"

namespace ramet::vmm {
namespace {

// The guest's view: its own mapping of the same file.
class UringQueuesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    arch::install_guard();
    queues = *UringQueues::create(4, 8);
    queues->describe(sq, cq);
    rings = map(IORING_OFF_SQ_RING, sq.array + 4 * sizeof(std::uint32_t));
    entries = map(IORING_OFF_SQES, 4 * sizeof(io_uring_sqe));
  }
  void TearDown() override {
    ::munmap(rings, mm::kPageSize);
    ::munmap(entries, mm::kPageSize);
  }
  std::byte* map(std::uint64_t offset, std::uint64_t bytes) {
    const auto place = queues->place(offset, bytes);
    EXPECT_TRUE(place);
    const int file = queues->memory()->host.get();
    void* at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, static_cast<off_t>(*place));
    EXPECT_NE(at, MAP_FAILED);
    return static_cast<std::byte*>(at);
  }
  std::uint32_t& word(std::uint32_t offset) { return *reinterpret_cast<std::uint32_t*>(rings + offset); }
  std::uint32_t& index(unsigned i) { return word(sq.array + i * 4); }
  io_uring_sqe& entry(unsigned i) { return *reinterpret_cast<io_uring_sqe*>(entries + i * sizeof(io_uring_sqe)); }
  Completion& completion(unsigned i) { return reinterpret_cast<Completion*>(rings + cq.cqes)[i]; }

  std::unique_ptr<UringQueues> queues;
  io_sqring_offsets sq{};
  io_cqring_offsets cq{};
  std::byte *rings = nullptr, *entries = nullptr;
};

TEST_F(UringQueuesTest, EntriesComeInTheOrderOfTheArray) {
  for (unsigned i = 0; i < 4; ++i) {
    entry(i).user_data = i;
    index(i) = 3 - i;
  }
  EXPECT_EQ(queues->submissions(), 0u);
  word(sq.tail) = 4;
  ASSERT_EQ(queues->submissions(), 4u);
  for (unsigned i = 0; i < 4; ++i) EXPECT_EQ(queues->take()->user_data, 3 - i);
  EXPECT_EQ(word(sq.head), 0u);  // not the guest's again before it is told
  queues->publish_head();
  EXPECT_EQ(word(sq.head), 4u);
  EXPECT_EQ(queues->submissions(), 0u);
}

TEST_F(UringQueuesTest, QueuesThatCannotBeReachedHaveNoEntriesAndNoRoom) {
  word(sq.tail) = 3;
  ASSERT_TRUE(queues->take());
  // The VMM's own mappings: those of the file that are not ours.
  unsigned taken = 0;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    unsigned long start = 0, end = 0;
    if (line.find("memfd:io_uring") == std::string::npos || std::sscanf(line.c_str(), "%lx-%lx", &start, &end) != 2)
      continue;
    auto* at = reinterpret_cast<std::byte*>(start);
    if (at == rings || at == entries) continue;
    ASSERT_EQ(::mprotect(at, end - start, PROT_NONE), 0);
    ++taken;
  }
  ASSERT_EQ(taken, 2u);
  EXPECT_EQ(queues->submissions(), 0u);
  EXPECT_FALSE(queues->take());
  queues->publish_head();
  EXPECT_EQ(queues->completions(), queues->cq_entries());
  EXPECT_FALSE(queues->put({1, 2, 0}));
  queues->set_overflow(true);
  EXPECT_FALSE(queues->eventfd_disabled());
  EXPECT_EQ(word(sq.head), 0u);
}

TEST_F(UringQueuesTest, ATailThatIsMadeUpIsNoMoreThanAFullQueue) {
  word(sq.tail) = 1'000'000;
  EXPECT_EQ(queues->submissions(), 4u);
  word(sq.tail) = ~0u;
  EXPECT_EQ(queues->submissions(), 4u);
}

TEST_F(UringQueuesTest, OurOwnHeadsAndSizesAreNotReadFromTheGuest) {
  entry(1).user_data = 77;
  index(0) = 1;
  word(sq.head) = 3, word(sq.ring_mask) = ~0u, word(sq.ring_entries) = 1'000'000;
  word(sq.tail) = 1;
  ASSERT_EQ(queues->submissions(), 1u);
  EXPECT_EQ(queues->take()->user_data, 77u);
  word(cq.tail) = 1'000'000, word(cq.ring_mask) = ~0u, word(cq.ring_entries) = 1'000'000;
  EXPECT_TRUE(queues->put({5, 6, 0}));
  EXPECT_EQ(completion(0).user_data, 5u);
  EXPECT_EQ(word(cq.tail), 1u);
}

TEST_F(UringQueuesTest, AnIndexOutOfRangeIsDroppedAndCounted) {
  index(0) = 4, index(1) = ~0u, index(2) = 3;
  entry(3).user_data = 9;
  word(sq.tail) = 3;
  EXPECT_FALSE(queues->take());
  EXPECT_FALSE(queues->take());
  EXPECT_EQ(queues->take()->user_data, 9u);
  EXPECT_EQ(word(sq.dropped), 2u);
}

TEST_F(UringQueuesTest, WhatWasTakenDoesNotChange) {
  entry(0).user_data = 1;
  word(sq.tail) = 1;
  const auto taken = queues->take();
  entry(0).user_data = 2;
  EXPECT_EQ(taken->user_data, 1u);
}

TEST_F(UringQueuesTest, AFullQueueTakesNothing) {
  for (std::uint64_t i = 0; i < 8; ++i) EXPECT_TRUE(queues->put({i, 0, 0}));
  EXPECT_FALSE(queues->put({8, 0, 0}));
  EXPECT_EQ(queues->completions(), 8u);
  word(cq.head) = 1;
  EXPECT_TRUE(queues->put({8, 0, 0}));
  EXPECT_EQ(completion(0).user_data, 8u);
  word(cq.head) = 12'345;  // made up: full, and nothing is written outside
  EXPECT_FALSE(queues->put({9, 0, 0}));
  queues->set_overflow(true);
  EXPECT_EQ(word(sq.flags), IORING_SQ_CQ_OVERFLOW);
  queues->set_overflow(false);
  EXPECT_EQ(word(sq.flags), 0u);
}

TEST_F(UringQueuesTest, OnlyTheTwoPlacesCanBeMapped) {
  EXPECT_EQ(queues->place(IORING_OFF_CQ_RING, mm::kPageSize), std::uint64_t{IORING_OFF_SQ_RING});
  EXPECT_EQ(queues->place(mm::kPageSize, mm::kPageSize), err(EINVAL));
  EXPECT_EQ(queues->place(IORING_OFF_SQES, 2 * mm::kPageSize), err(EINVAL));
  EXPECT_EQ(queues->place(IORING_OFF_SQ_RING, 2 * mm::kPageSize), err(EINVAL));
}

TEST_F(UringQueuesTest, TheMemoryCannotBeTakenFromUnderUs) {
  EXPECT_EQ(::ftruncate(queues->memory()->host.get(), 0), -1);
  EXPECT_EQ(errno, EPERM);
}

}  // namespace
}  // namespace ramet::vmm
