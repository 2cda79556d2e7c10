#include "vmm/shell_pool.hpp"

#include <signal.h>

#include <algorithm>
#include <array>
#include <exception>

#include "vmm/signals_blocked.hpp"

namespace ramet::vmm {

ShellPool::~ShellPool() {
  {
    LockGuard guard(lock_);
    stop_ = true;
  }
  changed_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void ShellPool::start(std::chrono::milliseconds after) {
  std::call_once(started_, [this] {
    SignalsBlocked blocked;
    try {
      thread_ = std::thread([this] { work(); });
    } catch (const std::exception&) {
      // The host gives no thread: take() makes every shell.
    }
  });
  {
    LockGuard guard(lock_);
    wanted_ = true;
    if (after.count() == 0) asked_ = true;
    else quiet_until_ = std::chrono::steady_clock::now() + after;
  }
  changed_.notify_one();
}

std::expected<std::unique_ptr<Shell>, Failure> ShellPool::take() {
  std::unique_ptr<Shell> shell;
  {
    LockGuard guard(lock_);
    if (!warm_.empty()) {
      shell = std::move(warm_.back());
      warm_.pop_back();
    }
    quiet_until_ = std::chrono::steady_clock::now() + kQuiet;
  }
  start();
  if (shell) return shell;
  return make_();
}

void ShellPool::put(std::unique_ptr<Shell> shell) {
  LockGuard guard(lock_);
  if (warm_.size() < most_warm_) warm_.push_back(std::move(shell));
}

std::size_t ShellPool::warm() const {
  LockGuard guard(lock_);
  return warm_.size();
}

void ShellPool::give_back(std::unique_ptr<Shell> shell) {
  {
    LockGuard guard(lock_);
    if (old_.size() < kMostOld) old_.push_back(std::move(shell));
  }
  changed_.notify_one();
}

void ShellPool::work() {
  UniqueLock guard(lock_);
  for (;;) {
    changed_.wait(guard.standard(), [this]() RAMET_REQUIRES(lock_) {
      return stop_ || !old_.empty() || (wanted_ && warm_.size() < most_warm_);
    });
    if (!urgent_locked() && std::chrono::steady_clock::now() < quiet_until_) {
      changed_.wait_until(guard.standard(), quiet_until_);
    } else if (wanted_ && warm_.size() < most_warm_ && !stop_) {
      guard.unlock();
      std::unique_ptr<Shell> made;
      try {
        if (auto shell = make_()) made = std::move(*shell);
      } catch (const std::exception&) {
        // As a Failure.
      }
      guard.lock();
      if (made) {
        warm_.push_back(std::move(made));  // there is room
      } else {
        wanted_ = false;  // the next take() reports why
      }
    } else if (!old_.empty()) {
      std::array<std::unique_ptr<Shell>, kMostOld> gone;
      std::ranges::move(old_, gone.begin());
      old_.clear();
      guard.unlock();
      gone = {};
      guard.lock();
    } else if (stop_) {
      return;
    }
  }
}

}  // namespace ramet::vmm
