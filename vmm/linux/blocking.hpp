// Host system calls that may wait for long, and return -EINTR when the guest's thread is interrupted.
#pragma once

#include <pthread.h>

#include <array>
#include <atomic>
#include <cstdint>

namespace ramet::vmm {

// An interruption of one host thread, which its waits cannot miss. Thread has one; tests use it alone.
class Interruption {
 public:
  // Makes the owner's current wait() return -EINTR, or else its next. From any thread, and from signal handlers.
  // `owner` must be a live thread.
  void raise(pthread_t owner);
  // As raise(), for an owner that is the caller itself, or that is known not to wait.
  void set() { word_.store(1, std::memory_order_seq_cst); }
  // For the owner, which looks at what raise() announced *after* this: what comes later interrupts it again.
  void clear() { word_.store(0, std::memory_order_seq_cst); }
  bool raised() const { return word_.load(std::memory_order_seq_cst) != 0; }
  // Whether the owner is in wait(). For /proc only: it may be out of date, and pairs with nothing.
  bool waiting() const { return waiting_.load(std::memory_order_relaxed); }

  // For the owner. Returns the host call's result or -errno. It is -EINTR only after raise(), and, as on Linux, not for
  // a call on a file that is ready: what is there is read, and what there is room for is written.
  std::int64_t wait(long number, const std::array<std::uint64_t, 6>& arguments);

 private:
  // The same call after an interruption: -EINTR if it would wait.
  std::int64_t at_once(long number, std::array<std::uint64_t, 6> arguments);

  // word_ and waiting_ are each stored by one side and then loaded by the other (Dekker), hence seq_cst:
  // raise() stores word_ and loads waiting_, wait() stores waiting_ and its system call's stub loads word_.
  std::atomic<std::uint32_t> word_{0};
  std::atomic<bool> waiting_{false};
};

}  // namespace ramet::vmm
