// Layers: leaving memory to a layer (freeze.cpp), standing on one and going back to it (adopt.cpp), building a space on
// one (contents.cpp).
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "guest-mm/frozen_memory.hpp"
#include "guest-mm/pinning.hpp"

namespace ramet::mm {

// A frame or a table that a layer holds does not change while the layer is in use, but for accessed and dirty bits in
// tables.
class Layers {
 public:
  Layers(SpaceCore& core, const EntryRules& rules, SharedBanks& banks, CopyOnWrite& copies, Pinning& pinning)
      : core_(core), rules_(rules), banks_(banks), copies_(copies), pinning_(pinning) {}

  // See AddressSpace.
  Result<std::shared_ptr<const FrozenMemory>> freeze() RAMET_EXCLUDES(address_space_lock);
  Result<> adopt(const FrozenMemory&) RAMET_EXCLUDES(address_space_lock);
  Result<> reset(const FrozenMemory&) RAMET_EXCLUDES(address_space_lock);
  Result<> restore(std::shared_ptr<const Layer>, Gva mmap_top, std::span<const Region>, std::span<const Extent>)
      RAMET_EXCLUDES(address_space_lock);

 private:
  // A new layer on top of those that the space stands on, without data or tables yet.
  std::shared_ptr<Layer> next_layer_locked() RAMET_REQUIRES(address_space_lock);
  // The layers that the page table still references.
  std::vector<Layer::Below> referred_to_locked(std::vector<Layer::Below>) const RAMET_REQUIRES(address_space_lock);
  // What a freeze takes before it changes anything. Errors: NoMemory; then nothing has changed.
  struct Sealed {
    std::vector<Pinning::PinnedPage> pinned;
    Gpa root = 0;
    std::vector<Range> parts;
  };
  Result<Sealed> seal_locked(FlushBatch&) RAMET_REQUIRES(address_space_lock);
  // Unmaps the regions of the frozen memory whose contents a child does not inherit. Errors: NoMemory.
  Result<> leave_out_locked(const FrozenMemory&, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  // Everything of a reset that can fail. Errors: Pinned, NoMemory; then nothing has changed.
  Result<> prepare_reset_locked(const FrozenMemory&, const std::vector<const Region*>& before, FlushBatch&)
      RAMET_REQUIRES(address_space_lock);
  // Puts the regions in `before` in place of the present ones, which are seized.
  void reset_regions_locked(const std::vector<const Region*>& before, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  // Inserts the regions and maps what they hold, both in address order. Errors: Invalid, NoMemory.
  Result<> build_locked(std::span<const Region>, std::span<const Extent>, FlushBatch&)
      RAMET_REQUIRES(address_space_lock);
  // Whether the region is well-formed and starts at `after` or above.
  bool sound_locked(const Region&, Gva after) const RAMET_REQUIRES(address_space_lock);
  // Maps an extent of a layer's frames, in the largest leaves the region takes. Errors: Invalid, NoMemory.
  Result<> map_extent_locked(const Region&, const Extent&, FlushBatch&) RAMET_REQUIRES(address_space_lock);

  SpaceCore& core_;
  const EntryRules& rules_;
  SharedBanks& banks_;
  CopyOnWrite& copies_;
  Pinning& pinning_;
  // A reset restored references to all of core.memory.layer(), which the newest frozen layer may lack.
  bool was_reset_ RAMET_GUARDED_BY(address_space_lock) = false;
};

}  // namespace ramet::mm
