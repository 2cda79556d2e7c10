// Pin-aware copy-on-write: pinning pages (pin.cpp), and what a freeze does about pinned pages (freeze_pins.cpp).
#pragma once

#include <optional>
#include <vector>

#include "guest-mm/user_memory.hpp"

namespace ramet::mm {

// The core's PinBook counts the pins of each frame. This class orders pins and freezes: a pin taken without the lock is
// either counted before a freeze looks at the counts, or finds freezing() changed and is taken again with the lock.
class Pinning {
 public:
  Pinning(SpaceCore& core, const EntryRules& rules, CopyOnWrite& copies, UserMemory& user)
      : core_(core), rules_(rules), copies_(copies), user_(user) {}

  // Pins a page with an exclusive frame, without the lock. nullopt: this page needs the lock.
  std::optional<PinHold> fast(Gva page, Access);
  // The leaf of a page that may be pinned: faulted in, and copied if its frame is not exclusive. Errors: as fault().
  Result<PageTable::Leaf> exclusive_locked(Gva page, Access, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  // Pins the frames of `bytes` bytes from `first` on, mapped at `at`. Precondition: they are exclusive, see
  // exclusive_locked(), or a shared object's, which are not counted.
  PinHold hold_locked(Gpa first, Gva at, std::uint64_t bytes) RAMET_REQUIRES(address_space_lock);
  // Moves pages of [start, end), page-aligned, to the pin bank where they can move. Errors: as fault(), NoMemory.
  Result<> move_all_apart(Gva start, Gva end, Access) RAMET_EXCLUDES(address_space_lock);
  // Adds a piece, which lies in one page, to a pin. Errors: as fault(), NoMemory.
  Result<> pin_page(Gva at, std::uint64_t bytes, Access, Pin&) RAMET_EXCLUDES(address_space_lock);

  // Odd while a freeze looks at the pins. Pairs by fences with fast().
  SequenceCount& freezing() { return freezing_; }
  // A pinned page during a freeze: its frame, which this space keeps, and the copy for children.
  struct PinnedPage {
    Gva at;
    Gpa frame, copy;
    Gpa table = 0;
    PageTable::Attributes attributes = {};
  };
  // All pinned pages that are mapped, now by PTEs in unshared tables, with frames for their copies. Errors:
  // NoMemory.
  Result<std::vector<PinnedPage>> pinned_pages_locked(FlushBatch&) RAMET_REQUIRES(address_space_lock);
  // Called when the tree is shared and no vCPU can write: makes the copies and puts them into the layer's tables; the
  // space's own tables keep the frames.
  void keep_pinned_locked(const std::vector<PinnedPage>&, FlushBatch&) RAMET_REQUIRES(address_space_lock);

 private:
  // Whether the page's frame can go to the pin bank.
  bool movable_locked(Gva page, const PageTable::Leaf&) const RAMET_REQUIRES(address_space_lock);
  // Precondition of the next three: [start, end) lies in one table.
  Result<> move_apart_locked(Gva start, Gva end, Access, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  Result<bool> close_to_writes_locked(Gva start, Gva end, Access, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  Result<> move_closed_locked(Gva start, Gva end, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  std::vector<PinnedPage> find_pinned_locked() RAMET_REQUIRES(address_space_lock);

  SpaceCore& core_;
  const EntryRules& rules_;
  CopyOnWrite& copies_;
  UserMemory& user_;
  SequenceCount freezing_;
};

}  // namespace ramet::mm
