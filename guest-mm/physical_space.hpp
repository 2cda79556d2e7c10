// Which guest-physical addresses are taken, by all VMs that may ever share memory: a frame has the same address in
// every VM that maps it, so no two banks lie in the same place.
#pragma once

#include <map>

#include "guest-mm/space_lock.hpp"
#include "guest-mm/thread_annotations.hpp"
#include "guest-mm/types.hpp"

namespace ramet::mm {

class PhysicalSpace {
 public:
  // Addresses below 2^bits. 40 is what arm64 hosts are sure to have.
  explicit PhysicalSpace(unsigned bits = 40) : limit_(Gpa{1} << bits) {}
  PhysicalSpace(const PhysicalSpace&) = delete;
  PhysicalSpace& operator=(const PhysicalSpace&) = delete;

  // Takes the lowest free range of `size` bytes at or above `lowest`; returns its start, block-aligned. Errors:
  // NoMemory.
  Result<Gpa> take(std::uint64_t size, Gpa lowest) RAMET_EXCLUDES(lock_);
  // Precondition: take() returned `base`.
  void give_back(Gpa base) RAMET_EXCLUDES(lock_);
  Gpa limit() const { return limit_; }

 private:
  const Gpa limit_;
  Mutex lock_ RAMET_ACQUIRED_AFTER(address_space_lock);  // innermost
  std::map<Gpa, Gpa> taken_ RAMET_GUARDED_BY(lock_);  // start to end
};

}  // namespace ramet::mm
