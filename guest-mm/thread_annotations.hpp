// Locks whose use clang checks (-Wthread-safety): an attribute of a field names the lock that guards it, one of a
// function the locks that its caller holds. For other compilers these types are the standard library's locks, which
// have no such attributes. Nothing here costs anything at run time.
//
// A lambda is checked as a function of its own: where it runs under a lock, it says RAMET_REQUIRES as well.
#pragma once

#include <mutex>
#include <shared_mutex>

#if defined(__clang__)
#define RAMET_THREAD_SAFETY(attribute) __attribute__((attribute))
#else
#define RAMET_THREAD_SAFETY(attribute)
#endif

// Types: a lock; an object that holds one as long as it lives.
#define RAMET_CAPABILITY(name) RAMET_THREAD_SAFETY(capability(name))
#define RAMET_SCOPED_CAPABILITY RAMET_THREAD_SAFETY(scoped_lockable)
// Fields: the lock to hold for the field, or for what the pointer leads to; and the order of two locks.
#define RAMET_GUARDED_BY(lock) RAMET_THREAD_SAFETY(guarded_by(lock))
#define RAMET_PT_GUARDED_BY(lock) RAMET_THREAD_SAFETY(pt_guarded_by(lock))
#define RAMET_ACQUIRED_BEFORE(...) RAMET_THREAD_SAFETY(acquired_before(__VA_ARGS__))
#define RAMET_ACQUIRED_AFTER(...) RAMET_THREAD_SAFETY(acquired_after(__VA_ARGS__))
// Functions: what the caller holds, or does not hold because the function takes it itself.
#define RAMET_REQUIRES(...) RAMET_THREAD_SAFETY(requires_capability(__VA_ARGS__))
#define RAMET_REQUIRES_SHARED(...) RAMET_THREAD_SAFETY(requires_shared_capability(__VA_ARGS__))
#define RAMET_EXCLUDES(...) RAMET_THREAD_SAFETY(locks_excluded(__VA_ARGS__))
// Functions that take and release. Without an argument: of the object itself, or of what a scoped object holds.
#define RAMET_ACQUIRE(...) RAMET_THREAD_SAFETY(acquire_capability(__VA_ARGS__))
#define RAMET_ACQUIRE_SHARED(...) RAMET_THREAD_SAFETY(acquire_shared_capability(__VA_ARGS__))
#define RAMET_TRY_ACQUIRE(...) RAMET_THREAD_SAFETY(try_acquire_capability(__VA_ARGS__))
#define RAMET_RELEASE(...) RAMET_THREAD_SAFETY(release_capability(__VA_ARGS__))
#define RAMET_RELEASE_SHARED(...) RAMET_THREAD_SAFETY(release_shared_capability(__VA_ARGS__))
#define RAMET_RELEASE_GENERIC(...) RAMET_THREAD_SAFETY(release_generic_capability(__VA_ARGS__))
// Tells the analysis that the lock is held, or not needed yet, where it cannot see that.
#define RAMET_ASSERT_CAPABILITY(...) RAMET_THREAD_SAFETY(assert_capability(__VA_ARGS__))
// For functions protected by something else than a lock, or by a lock chosen at run time. The reason stands beside it.
#define RAMET_NO_THREAD_SAFETY_ANALYSIS RAMET_THREAD_SAFETY(no_thread_safety_analysis)

namespace ramet {

class RAMET_CAPABILITY("mutex") Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;
  void lock() RAMET_ACQUIRE() { mutex_.lock(); }
  void unlock() RAMET_RELEASE() { mutex_.unlock(); }
  bool try_lock() RAMET_TRY_ACQUIRE(true) { return mutex_.try_lock(); }

 private:
  friend class UniqueLock;
  std::mutex mutex_;
};

class RAMET_CAPABILITY("shared mutex") SharedMutex {
 public:
  SharedMutex() = default;
  SharedMutex(const SharedMutex&) = delete;
  SharedMutex& operator=(const SharedMutex&) = delete;
  void lock() RAMET_ACQUIRE() { mutex_.lock(); }
  void unlock() RAMET_RELEASE() { mutex_.unlock(); }
  void lock_shared() RAMET_ACQUIRE_SHARED() { mutex_.lock_shared(); }
  void unlock_shared() RAMET_RELEASE_SHARED() { mutex_.unlock_shared(); }

 private:
  std::shared_mutex mutex_;
};

// As std::lock_guard. With kAdopt: of a mutex that is held already.
struct Adopt {};
inline constexpr Adopt kAdopt;

template <class M>
class RAMET_SCOPED_CAPABILITY LockGuard {
 public:
  explicit LockGuard(M& mutex) RAMET_ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(); }
  LockGuard(M& mutex, Adopt) RAMET_REQUIRES(mutex) : mutex_(mutex) {}
  ~LockGuard() RAMET_RELEASE() { mutex_.unlock(); }
  LockGuard(const LockGuard&) = delete;
  LockGuard& operator=(const LockGuard&) = delete;

 private:
  M& mutex_;
};

// As std::shared_lock, of a SharedMutex: for reading only.
class RAMET_SCOPED_CAPABILITY SharedLock {
 public:
  explicit SharedLock(SharedMutex& mutex) RAMET_ACQUIRE_SHARED(mutex) : mutex_(mutex) { mutex_.lock_shared(); }
  ~SharedLock() RAMET_RELEASE_GENERIC() { mutex_.unlock_shared(); }
  SharedLock(const SharedLock&) = delete;
  SharedLock& operator=(const SharedLock&) = delete;

 private:
  SharedMutex& mutex_;
};

// As std::unique_lock, to release the lock in between, or to wait for a std::condition_variable by standard(). A
// predicate given to such a wait runs under the lock and says so by RAMET_REQUIRES.
class RAMET_SCOPED_CAPABILITY UniqueLock {
 public:
  explicit UniqueLock(Mutex& mutex) RAMET_ACQUIRE(mutex) : lock_(mutex.mutex_) {}
  ~UniqueLock() RAMET_RELEASE() {}
  UniqueLock(const UniqueLock&) = delete;
  UniqueLock& operator=(const UniqueLock&) = delete;
  void lock() RAMET_ACQUIRE() { lock_.lock(); }
  void unlock() RAMET_RELEASE() { lock_.unlock(); }
  std::unique_lock<std::mutex>& standard() { return lock_; }

 private:
  std::unique_lock<std::mutex> lock_;
};

}  // namespace ramet
