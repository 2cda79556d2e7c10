// Warm shells: a thread of the pool's makes them in advance and destroys used ones, so that neither fork(2) nor
// execve(2) nor the end of a process waits for KVM.
#pragma once

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "guest-mm/thread_annotations.hpp"
#include "vmm/shell.hpp"

namespace ramet::vmm {

class ShellPool {
 public:
  // The pool's thread starts with the first start() or take().
  explicit ShellPool(MakeShell make, std::size_t warm = kWarm) : make_(std::move(make)), most_warm_(warm) {
    warm_.reserve(most_warm_ + 1);  // one more: put() while work() makes one
    old_.reserve(kMostOld);
  }
  ~ShellPool();  // destroys every shell that was given back
  ShellPool(const ShellPool&) = delete;
  ShellPool& operator=(const ShellPool&) = delete;

  static constexpr std::size_t kWarm = 2;     // a fork(2) and the child's execve(2) take one each

  // Keeps shells warm from now on; `after`: once that has passed, unless take() is called earlier.
  void start(std::chrono::milliseconds after = {}) RAMET_EXCLUDES(lock_);
  // A warm shell, or else a new one. Errors: as `make`.
  std::expected<std::unique_ptr<Shell>, Failure> take() RAMET_EXCLUDES(lock_);
  // For a shell that was used: destroys it, later and on the pool's thread.
  void give_back(std::unique_ptr<Shell>) RAMET_EXCLUDES(lock_);
  // For a shell that is as good as new, as after Shell::reset(): keeps it for a later take(), or, if enough are warm,
  // destroys it.
  void put(std::unique_ptr<Shell>) RAMET_EXCLUDES(lock_);
  std::size_t warm() const RAMET_EXCLUDES(lock_);

 private:
  static constexpr std::size_t kMostOld = 16;  // beyond that, give_back() destroys the shell itself
  // How long the pool pauses after a take(), unless it is empty: the taker now starts a process, and creating or
  // destroying VMs would contend with it on mmap_lock.
  static constexpr std::chrono::milliseconds kQuiet{2};
  void work() RAMET_EXCLUDES(lock_);
  bool urgent_locked() const RAMET_REQUIRES(lock_) {
    return stop_ || (asked_ && wanted_ && warm_.empty()) || old_.size() >= kMostOld;
  }

  const MakeShell make_;
  const std::size_t most_warm_;
  mutable Mutex lock_;  // innermost
  std::condition_variable changed_;
  // Both have their full capacity from the start: adding to them allocates nothing.
  std::vector<std::unique_ptr<Shell>> warm_ RAMET_GUARDED_BY(lock_);
  std::vector<std::unique_ptr<Shell>> old_ RAMET_GUARDED_BY(lock_);  // given back
  // Until then only what is urgent is done.
  std::chrono::steady_clock::time_point quiet_until_ RAMET_GUARDED_BY(lock_){};
  bool asked_ RAMET_GUARDED_BY(lock_) = false;  // take() was called
  bool wanted_ RAMET_GUARDED_BY(lock_) = false;  // warm ones are; false again from a failure to the next take()
  bool stop_ RAMET_GUARDED_BY(lock_) = false;
  std::once_flag started_;
  std::thread thread_;
};

}  // namespace ramet::vmm
