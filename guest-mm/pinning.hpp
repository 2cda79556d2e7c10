// Pinning pages, and what a freeze does about those that are pinned (technique 2). pin.cpp pins, freeze_pins.cpp is for
// the freeze.
#pragma once

#include <optional>
#include <vector>

#include "guest-mm/user_memory.hpp"

namespace ramet::mm {

// How often a frame is pinned is in the core's PinBook. What is here is who sees whom: a pin that is taken without the
// lock is counted before a freeze looks at the counts, or finds freezing() changed and is taken with the lock.
class Pinning {
 public:
  Pinning(SpaceCore& core, const EntryRules& rules, CopyOnWrite& copies, UserMemory& user)
      : core_(core), rules_(rules), copies_(copies), user_(user) {}

  // A page of the VM's own, pinned without the lock; nothing if it takes the lock.
  std::optional<PinHold> fast(Gva page, Access);
  // The same with it: faulted in, and copied if others see it. Errors as fault(). No frame: shared memory.
  Result<PageTable::Leaf> exclusive_locked(Gva page, Access, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  // Precondition: the frames are ours alone, see exclusive_locked(), or an object's: those are not counted.
  PinHold hold_locked(Gpa first, Gva at, std::uint64_t bytes) RAMET_REQUIRES(address_space_lock);
  // To the pin bank, what can go there of [start, end), page-aligned. Errors as fault(), NoMemory.
  Result<> move_all_apart(Gva start, Gva end, Access) RAMET_EXCLUDES(address_space_lock);
  // One more piece of a pin, of one page. Errors: as fault(), NoMemory.
  Result<> pin_page(Gva at, std::uint64_t bytes, Access, Pin&) RAMET_EXCLUDES(address_space_lock);

  // Odd while a freeze looks at the pins. Pairs by fences with fast().
  SequenceCount& freezing() { return freezing_; }
  // What a freeze does about pinned frames: copies to be had, made, and put where children find them.
  struct PinnedPage {
    Gva at;
    Gpa frame, copy;
    Gpa table = 0;
    PageTable::Attributes attributes = {};
  };
  // All pinned pages that are mapped, in tables of their own, with frames for their copies. Errors: NoMemory.
  Result<std::vector<PinnedPage>> pinned_pages_locked(FlushBatch&) RAMET_REQUIRES(address_space_lock);
  // When the tree is shared and nobody writes: the layer's tables get the copies, ours keep the frames.
  void keep_pinned_locked(const std::vector<PinnedPage>&, FlushBatch&) RAMET_REQUIRES(address_space_lock);

 private:
  // Whether the page's frame can go to the pin bank.
  bool movable_locked(Gva page, const PageTable::Leaf&) const RAMET_REQUIRES(address_space_lock);
  // Of one table.
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
