// The lock of an address space, the outermost lock of this room. Regions, tables and the layers below them change under
// it alone. It is held for one system call's change or one classic fault, never while the caller's vCPU runs.
//
// Clang's analysis compares expressions, and the parts of a space know its lock by different ones. So it has one name
// for all: address_space_lock, the lock of the space at hand. No function of this room has two spaces at hand.
#pragma once

#include <mutex>

#include "guest-mm/thread_annotations.hpp"

namespace ramet::mm {

// The name; has no state.
class RAMET_CAPABILITY("address-space lock") AddressSpaceLockName {
 public:
  // For places where the analysis cannot see that the lock is held, or that nobody else knows the space yet; the reason
  // stands beside the call.
  void assume_held() const RAMET_ASSERT_CAPABILITY(this) {}
};
inline constexpr AddressSpaceLockName address_space_lock;

class SpaceLock {
 public:
  SpaceLock() = default;
  SpaceLock(const SpaceLock&) = delete;
  SpaceLock& operator=(const SpaceLock&) = delete;
  // Not analysed inside: what is taken is the mutex, which the name stands for.
  void lock() RAMET_ACQUIRE(address_space_lock) RAMET_NO_THREAD_SAFETY_ANALYSIS { mutex_.lock(); }
  void unlock() RAMET_RELEASE(address_space_lock) RAMET_NO_THREAD_SAFETY_ANALYSIS { mutex_.unlock(); }
  bool try_lock() RAMET_TRY_ACQUIRE(true, address_space_lock) RAMET_NO_THREAD_SAFETY_ANALYSIS {
    return mutex_.try_lock();
  }

 private:
  std::mutex mutex_;
};

// Holds the lock while it lives.
class RAMET_SCOPED_CAPABILITY SpaceGuard {
 public:
  explicit SpaceGuard(SpaceLock& lock) RAMET_ACQUIRE(address_space_lock) : lock_(lock) { lock_.lock(); }
  SpaceGuard(SpaceLock& lock, Adopt) RAMET_REQUIRES(address_space_lock) : lock_(lock) {}
  ~SpaceGuard() RAMET_RELEASE() { lock_.unlock(); }
  SpaceGuard(const SpaceGuard&) = delete;
  SpaceGuard& operator=(const SpaceGuard&) = delete;

 private:
  SpaceLock& lock_;
};

}  // namespace ramet::mm
