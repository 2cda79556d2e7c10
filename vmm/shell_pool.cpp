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

void ShellPool::start() {
  std::call_once(started_, [this] {
    SignalsBlocked blocked;
    try {
      thread_ = std::thread([this] { work(); });
    } catch (const std::system_error&) {
      // No host thread to be had: every shell is made when it is taken.
    }
  });
  {
    std::lock_guard guard(lock_);
    wanted_ = true;
  }
  changed_.notify_one();
}

std::expected<std::unique_ptr<Shell>, Failure> ShellPool::take() {
  std::unique_ptr<Shell> shell;
  {
    std::lock_guard guard(lock_);
    if (!warm_.empty()) {
      shell = std::move(warm_.back());
      warm_.pop_back();
    }
    last_take_ = std::chrono::steady_clock::now();
  }
  start();
  if (shell) return shell;
  return make_();
}

void ShellPool::put(std::unique_ptr<Shell> shell) {
  std::lock_guard guard(lock_);
  if (warm_.size() < most_warm_) warm_.push_back(std::move(shell));
}

std::size_t ShellPool::warm() const {
  std::lock_guard guard(lock_);
  return warm_.size();
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
    changed_.wait(guard, [this] { return stop_ || !old_.empty() || (wanted_ && warm_.size() < most_warm_); });
    if (!urgent_locked() && std::chrono::steady_clock::now() < last_take_ + kQuiet) {
      changed_.wait_until(guard, last_take_ + kQuiet);
    } else if (wanted_ && warm_.size() < most_warm_ && !stop_) {
      guard.unlock();
      auto made = make_();
      guard.lock();
      if (made) {
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
