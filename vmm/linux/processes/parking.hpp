// Parking: one thread of a process stops all others between two instructions of the guest, to look at the process as a
// whole. System calls that wait are given up, and start again from their beginning when the threads go on.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>

#include "guest-mm/thread_annotations.hpp"

namespace ramet::vmm {

class Thread;

class Parking {
 public:
  // Whether every thread but one is to come to park(). Seq_cst: stop_others() stores it and interrupts the threads,
  // which load it before they enter the guest.
  bool asked() const { return asked_.load(std::memory_order_seq_cst); }
  // Waits until release(). For the thread's own host thread, which neither runs the guest nor serves it.
  void park() RAMET_EXCLUDES(lock_);
  // Waits until all others are parked. False, and none is parked: the process ends, is stopped by a signal or runs
  // another program, or another thread has asked.
  bool stop_others(Thread& by) RAMET_EXCLUDES(lock_);
  void release() RAMET_EXCLUDES(lock_);  // lets the parked threads go on

 private:
  Mutex lock_;  // order: before Process::threads_lock
  std::condition_variable changed_;
  std::atomic<bool> asked_{false};
  std::size_t parked_ RAMET_GUARDED_BY(lock_) = 0;
};

}  // namespace ramet::vmm
