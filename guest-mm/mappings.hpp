// What mmap, munmap, mprotect, mremap and madvise do to regions and their entries. Functions of AddressSpace check the
// guest's arguments and take the lock; the steps that several of them have in common are here.
#pragma once

#include <functional>

#include "guest-mm/shared_banks.hpp"

namespace ramet::mm {

class Mappings {
 public:
  Mappings(SpaceCore& core, SharedBanks& banks) : core_(core), banks_(banks) {}

  // A place for a new mapping. Errors: NoMemory, NotPermitted, Exists, Invalid.
  Result<Gva> place_locked(const MapRequest&, std::uint64_t length) RAMET_REQUIRES(address_space_lock);
  // Takes away regions, entries and frames. Errors: NoMemory (a block to split, too many regions).
  Result<> unmap_locked(Gva start, Gva end, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  // Puts edited regions in place of those of the range, cut at both ends. Errors: NoMemory; then nothing has changed.
  Result<> edit_locked(Gva start, Gva end, const std::function<void(Region&)>&, FlushBatch&)
      RAMET_REQUIRES(address_space_lock);
  // Takes away entries and frames, and leaves the regions. Errors: NoMemory; then nothing has changed.
  Result<> drop_locked(Gva start, Gva end, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  // Removes the regions of a seized range whose entries have gone; their backings and banks go with the batch.
  void remove_regions_locked(Gva start, Gva end, FlushBatch&) RAMET_REQUIRES(address_space_lock);

 private:
  SpaceCore& core_;
  SharedBanks& banks_;
};

}  // namespace ramet::mm
