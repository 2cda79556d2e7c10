// Host calls that may wait for long and must be given up when the guest's thread is interrupted.
#pragma once

#include <pthread.h>

#include <array>
#include <atomic>
#include <cstdint>

namespace ramet::vmm {

// What interrupts one host thread. Thread has one; tests use it alone.
class Interruption {
 public:
  // Makes the owner's wait(), if it is in one, or else its next, return -EINTR. From any thread, and from
  // signal handlers. `owner` must be a live thread.
  void raise(pthread_t owner);
  // As raise(), for an owner that is the caller itself, or that is known not to wait.
  void set() { word_.store(1, std::memory_order_seq_cst); }
  // The owner has seen it: waits may begin again. Look at what raise() announced *after* this.
  void clear() { word_.store(0, std::memory_order_seq_cst); }
  bool raised() const { return word_.load(std::memory_order_seq_cst) != 0; }
  // The owner is in a wait() just now, or was. For people: it pairs with nothing.
  bool waiting() const { return waiting_.load(std::memory_order_relaxed); }

  // The owner only. Result of the host call or -errno; -EINTR only if raised, and, as on Linux, not if it is a call
  // upon files that need not wait: what is there is read, and what there is room for is written.
  std::int64_t wait(long number, const std::array<std::uint64_t, 6>& arguments);

 private:
  // The same call, once it was interrupted.
  std::int64_t at_once(long number, std::array<std::uint64_t, 6> arguments);

  // word_ and waiting_ are each stored by one side and then loaded by the other (Dekker), hence seq_cst:
  // raise() stores word_ and loads waiting_, wait() stores waiting_ and its system call's stub loads word_.
  std::atomic<std::uint32_t> word_{0};
  std::atomic<bool> waiting_{false};
};

}  // namespace ramet::vmm
