// The bytes that the VMM holds for a guest; the first kFree are not charged.
#include "guest-mm/account.hpp"

namespace ramet::mm {

bool Account::take_held(std::uint64_t bytes) {
  LockGuard guard(lock_);
  const std::uint64_t now = held();
  if (bytes > ~std::uint64_t{0} - now || !take(beyond_free(now + bytes) - beyond_free(now))) return false;
  held_.store(now + bytes, std::memory_order_relaxed);
  peak_held_.store(std::max(peak_held(), now + bytes), std::memory_order_relaxed);
  return true;
}

void Account::give_held(std::uint64_t bytes) {
  LockGuard guard(lock_);
  const std::uint64_t now = held();
  held_.store(now - bytes, std::memory_order_relaxed);
  give(beyond_free(now) - beyond_free(now - bytes));
}

}  // namespace ramet::mm
