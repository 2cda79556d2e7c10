// What a guest costs the host, bounded: the frames it uses, and what the VMM holds for it on its own heap and in the
// host's kernel (lists of pinned memory, requests in flight, open files). Both are taken from one limit, as Linux
// charges a memory cgroup for pages and for what its kernel allocates on their behalf.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include "guest-mm/space_lock.hpp"
#include "guest-mm/thread_annotations.hpp"

namespace ramet::mm {

// Thread-safe; frames are counted without a lock.
class Account {
 public:
  explicit Account(std::uint64_t limit = ~0ull) : limit_(limit) {}
  Account(const Account&) = delete;
  Account& operator=(const Account&) = delete;

  // Takes bytes from the limit. False if fewer are left; then nothing is taken.
  bool take(std::uint64_t bytes) {
    std::uint64_t now = total_.load(std::memory_order_relaxed);
    do {
      const std::uint64_t limit = limit_.load(std::memory_order_relaxed);
      if (bytes > limit || now > limit - bytes) return false;
    } while (!total_.compare_exchange_weak(now, now + bytes, std::memory_order_relaxed));
    return true;
  }
  void give(std::uint64_t bytes) { total_.fetch_sub(bytes, std::memory_order_relaxed); }

  // As take() and give(), for bytes that the VMM itself holds. The first kFree of them do not count: a guest whose
  // frames have used up the limit can still make the system calls that it needs to go on.
  static constexpr std::uint64_t kFree = 64 << 10;
  bool take_held(std::uint64_t bytes) RAMET_EXCLUDES(lock_);
  void give_held(std::uint64_t bytes) RAMET_EXCLUDES(lock_);
  static std::uint64_t beyond_free(std::uint64_t held) { return std::max(held, kFree) - kFree; }

  std::uint64_t limit() const { return limit_.load(std::memory_order_relaxed); }
  void set_limit(std::uint64_t limit) { limit_.store(limit, std::memory_order_relaxed); }
  std::uint64_t total() const { return total_.load(std::memory_order_relaxed); }
  std::uint64_t held() const { return held_.load(std::memory_order_relaxed); }
  std::uint64_t peak_held() const { return peak_held_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> limit_, total_{0};  // a sum, exact by itself; it orders nothing else
  Mutex lock_ RAMET_ACQUIRED_AFTER(address_space_lock);  // for changes of what follows; innermost
  std::atomic<std::uint64_t> held_{0}, peak_held_{0};  // written under lock_, read without it as statistics
};

// Bytes that the VMM holds for a guest. Taken before the memory they stand for is allocated, given back by the end of
// the charge.
class Charge {
 public:
  Charge() = default;
  explicit Charge(std::shared_ptr<Account> account) : account_(std::move(account)) {}
  Charge(Charge&& o) noexcept : account_(std::move(o.account_)), bytes_(std::exchange(o.bytes_, 0)) {}
  Charge& operator=(Charge&& o) noexcept {
    std::swap(account_, o.account_), std::swap(bytes_, o.bytes_);
    return *this;
  }
  ~Charge() {
    if (bytes_) account_->give_held(bytes_);
  }

  // False: the limit is reached, and the charge is as it was. Without an account all is free.
  [[nodiscard]] bool grow(std::uint64_t more) {
    if (!account_) return true;
    if (!account_->take_held(more)) return false;
    bytes_ += more;
    return true;
  }
  // Makes room for one element more in a vector, as push_back() would: to twice its size. False as grow().
  template <class Vector>
  [[nodiscard]] bool room_for_one(Vector& v) {
    if (v.size() < v.capacity()) return true;
    const std::size_t more = v.capacity() ? v.capacity() : 1;
    if (!grow(more * sizeof(typename Vector::value_type))) return false;
    v.reserve(v.capacity() + more);
    return true;
  }
  std::uint64_t bytes() const { return bytes_; }

 private:
  std::shared_ptr<Account> account_;
  std::uint64_t bytes_ = 0;
};

}  // namespace ramet::mm
