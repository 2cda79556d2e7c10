// Layers: leaving memory to one (freeze.cpp), standing on one, and going back to it (adopt.cpp).
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "guest-mm/frozen_memory.hpp"
#include "guest-mm/pinning.hpp"

namespace ramet::mm {

// A frame or a table that a layer of somebody's holds never changes again, but for accessed and dirty bits in tables.
class Layers {
 public:
  Layers(SpaceCore& core, const EntryRules& rules, SharedBanks& banks, CopyOnWrite& copies, Pinning& pinning)
      : core_(core), rules_(rules), banks_(banks), copies_(copies), pinning_(pinning) {}

  // See AddressSpace.
  Result<std::shared_ptr<const FrozenMemory>> freeze() RAMET_EXCLUDES(address_space_lock);
  Result<> adopt(const FrozenMemory&) RAMET_EXCLUDES(address_space_lock);
  Result<> reset(const FrozenMemory&) RAMET_EXCLUDES(address_space_lock);
  Result<> restore(std::shared_ptr<const Layer>, Gva mmap_top, std::span<const Region>,
                   std::span<const AddressSpace::Stretch>);

 private:
  // A layer on what the space stands on now, with nothing of its own yet.
  std::shared_ptr<Layer> next_layer_locked() RAMET_REQUIRES(address_space_lock);
  // Those of the layers that something of ours still refers to.
  std::vector<Layer::Below> referred_to_locked(std::vector<Layer::Below>) const RAMET_REQUIRES(address_space_lock);
  // What a freeze takes before it changes anything. Errors: NoMemory; then nothing has changed.
  struct Sealed {
    std::vector<Pinning::PinnedPage> pinned;
    Gpa root = 0;
    std::vector<Layer::Part> parts;
  };
  Result<Sealed> seal_locked(FlushBatch&) RAMET_REQUIRES(address_space_lock);
  // Unmaps, of what came with frozen memory, the regions whose contents are not inherited. Errors: NoMemory.
  Result<> leave_out_locked(const FrozenMemory&, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  // Everything of a reset that can fail. Errors: Pinned, NoMemory; then nothing has changed.
  Result<> prepare_reset_locked(const FrozenMemory&, const std::vector<const Region*>& before, FlushBatch&)
      RAMET_REQUIRES(address_space_lock);
  // The regions of before in place of those of now, which are seized.
  void reset_regions_locked(const std::vector<const Region*>& before, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  // Regions in order, and what they hold. Errors: Invalid, NoMemory.
  Result<> build_locked(std::span<const Region>, std::span<const AddressSpace::Stretch>, FlushBatch&)
      RAMET_REQUIRES(address_space_lock);
  bool sound_locked(const Region&, Gva after) const RAMET_REQUIRES(address_space_lock);
  // Maps a stretch of a layer's frames, in the largest leaves the region takes. Errors: Invalid, NoMemory.
  Result<> map_stretch_locked(const Region&, const AddressSpace::Stretch&, FlushBatch&)
      RAMET_REQUIRES(address_space_lock);

  SpaceCore& core_;
  const EntryRules& rules_;
  SharedBanks& banks_;
  CopyOnWrite& copies_;
  Pinning& pinning_;
  // It refers again to all that core.memory.layer() does, though a layer of its own may not.
  bool was_reset_ RAMET_GUARDED_BY(address_space_lock) = false;
};

}  // namespace ramet::mm
