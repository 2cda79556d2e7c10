// A shortage of memory on the host: operator new fails once, in all rooms of a program that links scarce.cpp. Each
// thread has a count of its own.
#pragma once

#include <atomic>
#include <utility>

namespace ramet::test::scarce {

// How many allocations of the calling thread succeed until one fails; negative: none fails.
extern thread_local long allocations_left;
// An allocation of some thread has failed since this was cleared. Pairs with nothing: the reader has joined that
// thread.
extern std::atomic<bool> failed;

// Allocations of the test itself do not fail.
struct Paused {
  const long left = std::exchange(allocations_left, -1);
  ~Paused() { allocations_left = left; }
};

}  // namespace ramet::test::scarce
