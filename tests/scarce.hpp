// A host that has no memory at one moment: operator new fails once. A program that links scarce.cpp has it in all of
// its rooms; each thread has a count of its own.
#pragma once

#include <atomic>
#include <utility>

namespace ramet::test::scarce {

// Of the calling thread: how many allocations succeed until one fails; negative: none fails.
extern thread_local long allocations_left;
// One of any thread's has failed since somebody cleared this. Pairs with nothing: who asks has joined who failed.
extern std::atomic<bool> failed;

// What a test does itself does not fail.
struct Paused {
  const long left = std::exchange(allocations_left, -1);
  ~Paused() { allocations_left = left; }
};

}  // namespace ramet::test::scarce
