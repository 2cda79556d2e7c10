// Read-copy-update (McKenney and Slingwine 1998), by liburcu's memb flavour. Who faults, or dumps tables, reads regions
// and tables without a lock; who takes them away waits until everybody who may have seen them has moved on. The last
// of them wakes the waiter; in the "bulletproof" flavour, which needs no registration, it would poll every 10 ms.
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

// A thread that reads; from its first Reader until it ends.
struct Registered {
  Registered() { urcu_memb_register_thread(); }
  ~Registered() { urcu_memb_unregister_thread(); }
};

// What was found while it lives stays valid as long as it lives. May nest; must not wait for a lock that somebody
// holds who waits for a grace period, which is the address-space lock.
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

// Returns when every reader that was there has left. Not from within a reader.
inline void synchronize() {
  urcu_memb_synchronize_rcu();
#if defined(RAMET_THREAD_SANITIZER)
  __tsan_acquire(&grace_period_tag);
#endif
}

// Things that readers may still look at, kept until a grace period has passed. Not thread-safe.
class Retired {
 public:
  // Room for all there ever are at a time, and a pointer fits into each: adding one takes no memory.
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
  // One grace period for so many: it costs microseconds, more if a reader is slow.
  static constexpr std::size_t kEnough = 256;
  std::vector<std::function<void()>> waiting_;
};

}  // namespace ramet::mm::rcu
