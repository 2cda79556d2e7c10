// The banks of shared regions: a bank is attached to the machine as long as a region shows it.
#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "guest-mm/space_core.hpp"

namespace ramet::mm {

// Counts, for each bank, the bytes of all regions that show it; the bank is detached with the last byte. Cutting and
// merging regions does not change the sum, so only adding and removing regions is reported here.
class SharedBanks {
 public:
  explicit SharedBanks(SpaceCore& core) : core_(core) {}

  // To be called before the region is inserted. If it shows an object, the object's bank is attached to the machine.
  // Errors: NoMemory; then nothing is counted.
  Result<> attach_locked(const Region&) RAMET_REQUIRES(address_space_lock);
  // The same for all regions, or for none. Errors: NoMemory.
  Result<> attach_all_locked(const std::vector<const Region*>&, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  // To be called before a region whose bank is attached grows by that many bytes, or before another such region of
  // that many bytes is inserted.
  void grown_locked(const Region&, std::uint64_t bytes) RAMET_REQUIRES(address_space_lock);
  // To be called when the region has been removed. A bank that no region shows any more is detached with the batch.
  void detach_locked(const Region&, FlushBatch&) RAMET_REQUIRES(address_space_lock);

 private:
  struct Shown {
    std::shared_ptr<Bank> bank;
    std::uint64_t bytes = 0;
  };
  SpaceCore& core_;
  std::unordered_map<const Bank*, Shown> shown_ RAMET_GUARDED_BY(address_space_lock);
};

}  // namespace ramet::mm
