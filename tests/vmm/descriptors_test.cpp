// Descriptors: look-ups without a lock beside threads that close, replace and open.
#include "vmm/linux/files/descriptors.hpp"

#include <gtest/gtest.h>

#include <cerrno>
#include <thread>

#include "vmm/linux/files/files.hpp"

namespace ramet::vmm {
namespace {

constexpr std::size_t kLimit = 4096;

// A file without anything of the host's, which remembers the number it was made for.
std::shared_ptr<OpenFile> file_for(int number) {
  auto file = std::make_shared<OpenFile>();
  file->mount = number;
  return file;
}

TEST(Descriptors, AClosedFileIsGoneAtOnce) {
  Descriptors all;
  auto file = file_for(0);
  const std::weak_ptr<OpenFile> seen = file;
  ASSERT_EQ(all.install(std::move(file), false, 0, kLimit), 0);
  EXPECT_EQ(all.get(0), seen.lock());
  all.close(0);
  EXPECT_TRUE(seen.expired());
  EXPECT_EQ(all.get(0), nullptr);
}

TEST(Descriptors, NumbersThatAreNoneAreNotOpen) {
  Descriptors all;
  for (const int number : {-1, 0, 63, 64, 4095, 4096, INT_MAX, INT_MIN}) EXPECT_EQ(all.get(number), nullptr) << number;
  all.set({100, file_for(100)});
  for (const int number : {-1, 0, 63, 64, 4095, 4096, INT_MAX, INT_MIN}) EXPECT_EQ(all.get(number), nullptr) << number;
  EXPECT_EQ(all.get(100)->mount, 100);
}

TEST(Descriptors, AReservedNumberIsNeitherOpenNorFree) {
  Descriptors all;
  ASSERT_EQ(all.reserve(2), 0);
  EXPECT_EQ(all.get(0), nullptr);
  EXPECT_EQ(all.close(0), nullptr);
  all.set({1, file_for(1)});
  EXPECT_EQ(all.duplicate(1, 0, false, kLimit), std::unexpected(EBUSY));
  EXPECT_EQ(all.install(file_for(2), false, 0, 2), std::unexpected(EMFILE));
  EXPECT_EQ(Descriptors(all).install(file_for(0), false, 0, 2), 0) << "of a child nobody has reserved it";
  all.give_back(0);
  EXPECT_EQ(all.install(file_for(0), false, 0, 2), 0);
}

// Two threads look up what a third one closes, opens anew and grows all the time.
TEST(Descriptors, LookUpsBesideClosings) {
  constexpr int kNumbers = 4, kTurns = 40'000, kGrown = 4000;
  Descriptors all;
  for (int n = 0; n < kNumbers; ++n) all.set({n, file_for(n)});
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> found{0}, wrong{0};
  const auto look_up = [&] {
    std::uint64_t mine = 0;
    for (int n = 0; !stop.load(std::memory_order_relaxed); n = (n + 1) % kNumbers) {
      const auto file = all.get(n);
      if (!file) continue;
      ++mine;
      if (file->mount != n) wrong.fetch_add(1, std::memory_order_relaxed);
    }
    found.fetch_add(mine, std::memory_order_relaxed);
  };
  std::thread one(look_up), other(look_up);
  for (int turn = 0; turn < kTurns; ++turn) {
    const int n = turn % kNumbers;
    if (turn % 2) all.close(n);
    all.set({n, file_for(n)});
    if (turn % 100 == 0) all.set({kNumbers + turn * (kGrown - kNumbers) / kTurns, nullptr});
  }
  stop = true;
  one.join();
  other.join();
  EXPECT_GT(found.load(), 0u);
  EXPECT_EQ(wrong.load(), 0u);
}

}  // namespace
}  // namespace ramet::vmm
