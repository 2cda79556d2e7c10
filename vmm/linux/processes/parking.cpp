#include "vmm/linux/processes/parking.hpp"

#include <chrono>

#include "vmm/linux/processes/thread.hpp"

namespace ramet::vmm {

void Parking::park() {
  UniqueLock lock(lock_);
  ++parked_;
  changed_.notify_all();
  changed_.wait(lock.standard(), [this] { return !asked(); });
  --parked_;
}

bool Parking::stop_others(Thread& by) {
  if (asked_.exchange(true, std::memory_order_seq_cst)) return false;
  Process& process = by.process;
  process.interrupt_threads();
  UniqueLock lock(lock_);
  for (;;) {
    if (by.must_end() || process.signals.stopped.load(std::memory_order_acquire)) break;
    if (parked_ + 1 == process.thread_count()) return true;
    // changed_ does not tell of threads that end, or of the end of the process: looks again. And some may have run on.
    if (changed_.wait_for(lock.standard(), std::chrono::milliseconds(5)) == std::cv_status::timeout)
      process.interrupt_threads();
  }
  lock.unlock();
  release();
  return false;
}

void Parking::release() {
  {
    LockGuard guard(lock_);
    asked_.store(false, std::memory_order_seq_cst);
  }
  changed_.notify_all();
}

}  // namespace ramet::vmm
