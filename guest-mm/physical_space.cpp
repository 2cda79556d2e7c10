// First fit over the ranges taken. A VM has few banks, so thousands of VMs make some thousands of ranges.
#include "guest-mm/physical_space.hpp"

#include <algorithm>

namespace ramet::mm {

Result<Gpa> PhysicalSpace::take(std::uint64_t size, Gpa lowest) {
  LockGuard guard(lock_);
  Gpa base = align_up(lowest, kBlockSize);
  auto next = taken_.lower_bound(base);
  if (next != taken_.begin()) base = std::max(base, align_up(std::prev(next)->second, kBlockSize));
  for (; next != taken_.end() && next->first - base < size; ++next) base = align_up(next->second, kBlockSize);
  if (size == 0 || size > limit_ || base > limit_ - size) return fail(Error::NoMemory);
  taken_.emplace(base, base + size);
  return base;
}

void PhysicalSpace::give_back(Gpa base) {
  LockGuard guard(lock_);
  taken_.erase(base);
}

}  // namespace ramet::mm
