// The VMM's mappings above the guest's: stub pages and tables, pages of the machine that user code may read, and the
// linear map of guest memory for ring 0.
#pragma once

#include <optional>
#include <vector>

#include "guest-mm/space_core.hpp"

namespace ramet::mm {

// These mappings lie outside the addresses that a program may use, and have no regions.
class KernelMappings {
 public:
  explicit KernelMappings(SpaceCore& core) : core_(core) {}

  // Maps pages of the machine's own, see AddressSpace::map_kernel(), in the largest leaves. Errors: Invalid, Exists,
  // NoMemory.
  Result<> map(Gva, Gpa, std::uint64_t length, Prot, bool user) RAMET_EXCLUDES(address_space_lock);
  Result<> map_linear(Gva) RAMET_EXCLUDES(address_space_lock);
  Result<> protect_linear(Gpa, std::uint64_t length, Prot) RAMET_EXCLUDES(address_space_lock);
  Result<> keep_linear_4k(Gpa, std::uint64_t length) RAMET_EXCLUDES(address_space_lock);

  // Whether the address lies in the linear map.
  bool in_linear_locked(Gva at) const RAMET_REQUIRES(address_space_lock) {
    return linear_ && at - *linear_ < core_.memory.data().size();
  }
  // Whether a part of [start, end) is to stay in small pages.
  bool stays_small_locked(Gva start, Gva end) const RAMET_REQUIRES(address_space_lock);

 private:
  // Where such a mapping may lie: page-aligned, not empty, outside of what a program may use, not writable and
  // executable.
  bool fits(Gva, Gpa, std::uint64_t length, Prot) const;
  bool machines_own(Gpa, std::uint64_t length) const;
  Result<> map_locked(Gva, Gpa, std::uint64_t length, Prot, bool user, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  // Where the part of the bank lies in the linear map; Invalid if it is not all in the bank.
  Result<Gva> linear_locked(Gpa, std::uint64_t length) const RAMET_REQUIRES(address_space_lock);

  SpaceCore& core_;
  std::optional<Gva> linear_ RAMET_GUARDED_BY(address_space_lock);  // where the linear map begins
  std::vector<Range> keep_4k_ RAMET_GUARDED_BY(address_space_lock);  // parts of the linear map that stay in small pages
};

}  // namespace ramet::mm
