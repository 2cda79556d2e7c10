#include "vmm/shell_pool.hpp"

#include <signal.h>

#include <system_error>

#include "vmm/signals_blocked.hpp"

namespace ramet::vmm {

ShellPool::~ShellPool() {
  {
    std::lock_guard guard(lock_);
    stop_ = true;
  }
  changed_.notify_one();
  if (thread_.joinable()) thread_.join();
}

std::expected<std::unique_ptr<Shell>, Failure> ShellPool::take() {
  std::call_once(started_, [this] {
    SignalsBlocked blocked;
    try {
      thread_ = std::thread([this] { work(); });
    } catch (const std::system_error&) {
      // No host thread to be had: every shell is made when it is taken.
    }
  });
  std::unique_ptr<Shell> shell;
  {
    std::lock_guard guard(lock_);
    wanted_ = true;
    if (!warm_.empty()) {
      shell = std::move(warm_.back());
      warm_.pop_back();
    }
  }
  changed_.notify_one();
  if (shell) return shell;
  auto made = Shell::create(memory_bytes_, techniques_, space_);
  if (made) (*made)->use_pool(this);
  return made;
}

void ShellPool::give_back(std::unique_ptr<Shell> shell) {
  {
    std::lock_guard guard(lock_);
    if (old_.size() < kMostOld) old_.push_back(std::move(shell));
  }
  changed_.notify_one();
}

void ShellPool::work() {
  std::unique_lock guard(lock_);
  for (;;) {
    changed_.wait(guard, [this] { return stop_ || !old_.empty() || (wanted_ && warm_.size() < kWarm); });
    if (wanted_ && warm_.size() < kWarm && !stop_) {
      guard.unlock();
      auto made = Shell::create(memory_bytes_, techniques_, space_);
      guard.lock();
      if (made) {
        (*made)->use_pool(this);
        warm_.push_back(std::move(*made));
      } else {
        wanted_ = false;  // the host has no more; whoever takes the next one is told
      }
    } else if (!old_.empty()) {
      auto gone = std::move(old_);
      old_.clear();
      guard.unlock();
      gone.clear();
      guard.lock();
    } else if (stop_) {
      return;
    }
  }
}

}  // namespace ramet::vmm
