// Read-copy-update (McKenney and Slingwine 1998), by liburcu's memb flavour. Faults and dumps read regions and tables
// without a lock; before those are freed, a grace period passes: every reader that may have seen them has left. The
// last reader wakes the waiter; the "bulletproof" flavour, which needs no registration, polls every 10 ms instead.
#pragma once

#include <urcu/urcu-memb.h>

#include <cstddef>
#include <functional>
#include <utility>
#include <vector>

// ThreadSanitizer does not see through liburcu's barriers: what readers did before they left happens before
// the end of the grace period.
#if defined(__SANITIZE_THREAD__)
#define RAMET_THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define RAMET_THREAD_SANITIZER 1
#endif
#endif
#if defined(RAMET_THREAD_SANITIZER)
#include <sanitizer/tsan_interface.h>
#endif

namespace ramet::mm::rcu {

inline char grace_period_tag;  // an address for the annotations

// Registers a thread with liburcu, from its first Reader until the thread ends.
struct Registered {
  Registered() { urcu_memb_register_thread(); }
  ~Registered() { urcu_memb_unregister_thread(); }
};

// A read-side critical section: regions and tables found in it stay valid until it ends. May nest. Must not wait for
// the address-space lock, whose holder may be waiting for a grace period.
class Reader {
 public:
  Reader() {
    thread_local const Registered registered;
    urcu_memb_read_lock();
  }
  ~Reader() {
#if defined(RAMET_THREAD_SANITIZER)
    __tsan_release(&grace_period_tag);
#endif
    urcu_memb_read_unlock();
  }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
};

// Returns when every reader that existed at the call has left. Not to be called within a Reader.
inline void synchronize() {
  urcu_memb_synchronize_rcu();
#if defined(RAMET_THREAD_SANITIZER)
  __tsan_acquire(&grace_period_tag);
#endif
}

// Objects that readers may still look at, kept until a grace period has passed. Not thread-safe.
class Retired {
 public:
  // Reserves for the most there ever are, and a std::function holds a pointer in itself: add() does not allocate.
  Retired() { waiting_.reserve(kEnough); }
  Retired(Retired&&) = default;
  Retired& operator=(Retired&& o) noexcept {
    waiting_.swap(o.waiting_);
    return *this;
  }
  ~Retired() { reclaim(); }
  void add(std::function<void()> release) {
    waiting_.push_back(std::move(release));
    if (waiting_.size() >= kEnough) reclaim();
  }
  // Waits for the grace period, and releases all of them.
  void reclaim() {
    if (waiting_.empty()) return;
    synchronize();
    for (const auto& release : waiting_) release();
    waiting_.clear();
  }

 private:
  // This many share a grace period, which costs microseconds, more if a reader is slow.
  static constexpr std::size_t kEnough = 256;
  std::vector<std::function<void()>> waiting_;
};

}  // namespace ramet::mm::rcu
