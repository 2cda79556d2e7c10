// Warm shells: made before they are needed, taken apart after they are not, both by a thread of its own, so that
// neither fork(2) nor execve(2) nor the end of a process waits for KVM.
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
  // The pool's own thread starts with the first take(): who never takes pays nothing.
  explicit ShellPool(MakeShell make, std::size_t warm = kWarm) : make_(std::move(make)), most_warm_(warm) {
    warm_.reserve(most_warm_ + 1);  // one that is given back while one is made
    old_.reserve(kMostOld);
  }
  ~ShellPool();  // every shell that was given back is gone then
  ShellPool(const ShellPool&) = delete;
  ShellPool& operator=(const ShellPool&) = delete;

  static constexpr std::size_t kWarm = 2;     // as many as a fork and the child's execve take

  // Makes warm ones from now on, or once so much time has passed and none was asked for.
  void start(std::chrono::milliseconds after = {});
  // A warm one, or else a new one. Errors: as `make`.
  std::expected<std::unique_ptr<Shell>, Failure> take();
  // Nobody uses it any more.
  void give_back(std::unique_ptr<Shell>);
  // Is as a new one: to be taken again.
  void put(std::unique_ptr<Shell>);
  std::size_t warm() const;

 private:
  static constexpr std::size_t kMostOld = 16; // beyond, whoever gives back takes apart by itself
  // Whoever took one makes a process of it now, and VMs that are made and taken apart meanwhile would have the kernel's
  // lock of this process's address space in its way: so long the pool waits, unless it has run out.
  static constexpr std::chrono::milliseconds kQuiet{2};
  void work();
  bool urgent_locked() const RAMET_REQUIRES(lock_) {
    return stop_ || (asked_ && wanted_ && warm_.empty()) || old_.size() >= kMostOld;
  }

  const MakeShell make_;
  const std::size_t most_warm_;
  mutable Mutex lock_;  // a leaf
  std::condition_variable changed_;
  std::vector<std::unique_ptr<Shell>> warm_ RAMET_GUARDED_BY(lock_), old_
      RAMET_GUARDED_BY(lock_);  // as large as they get from the beginning
  std::chrono::steady_clock::time_point quiet_until_ RAMET_GUARDED_BY(lock_){};  // for what is not urgent
  bool asked_ RAMET_GUARDED_BY(lock_) = false;  // somebody took one
  bool wanted_ RAMET_GUARDED_BY(lock_) = false,
               stop_ RAMET_GUARDED_BY(lock_) = false;  // wanted_: to be made, unless it failed since one was last taken
  std::once_flag started_;
  std::thread thread_;
};

}  // namespace ramet::vmm
