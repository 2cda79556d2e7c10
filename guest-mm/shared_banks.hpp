// The banks of shared regions: the machine knows one as long as there is a region of it.
#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "guest-mm/space_core.hpp"

namespace ramet::mm {

// Of each bank it counts the bytes of all regions that show it. Cutting and merging regions changes nothing about that
// sum, so only whoever adds or takes away regions says so here; and a bank goes with the last byte, without a look at
// the others.
class SharedBanks {
 public:
  explicit SharedBanks(SpaceCore& core) : core_(core) {}

  // The region is about to be in the map. If it is one of a shared object, the machine knows its bank from now on.
  // Errors: NoMemory; then nothing is counted.
  Result<> attach_locked(const Region&) RAMET_REQUIRES(address_space_lock);
  // The same for all of them, or for none. Errors: NoMemory.
  Result<> attach_all_locked(const std::vector<const Region*>&, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  // A region is about to have so many bytes more, or there is to be one more like it: the machine knows its bank
  // already.
  void grown_locked(const Region&, std::uint64_t bytes) RAMET_REQUIRES(address_space_lock);
  // The region is in the map no more. A bank of which nothing is left goes with the batch.
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
