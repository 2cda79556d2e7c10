// What an entry of a region may allow: by the region's protection, by whom its frame belongs to, and by when fetches
// are made to see code (technique 1). Both ways of a fault, protection changes and migration ask here.
#pragma once

#include <atomic>
#include <cstdint>

#include "guest-mm/space_core.hpp"

namespace ramet::mm {

class EntryRules {
 public:
  using Attributes = PageTable::Attributes;
  using Leaf = PageTable::Leaf;
  using Level = PageTable::Level;
  explicit EntryRules(SpaceCore& core) : core_(core) {}

  // What an entry may do after an access of that kind: as the region says, and for a given frame.
  Attributes attributes(const Region&, Access) const;
  Attributes attributes(const Region&, Access, Gpa frame) const;
  // The same with execution withheld until somebody fetches there.
  static Attributes withheld(Attributes);
  // Of an entry that was accessed, and written, as far as said; what the access itself does not need stays for the
  // processor to set.
  static Attributes as_accessed(Attributes, bool accessed, bool written);
  // What a fault makes of a leaf that does not serve the access, though the frame may.
  Attributes upgraded(const Region&, const Leaf&, Access) const;
  // What becomes of a leaf when its region gets another protection.
  PageTable::Change protection(const Region&, const Leaf&) const;

  static bool allows(const Leaf&, Access);
  // Whether a processor needs no fault for that access: one that does not set the access flag by itself faults on an
  // entry without.
  static bool serves(const Leaf& leaf, Access access) { return leaf.attributes.accessed && allows(leaf, access); }
  // Whether nobody else must be kept from seeing what is written there.
  bool may_write(const Region&, Gpa frame) const;
  // A writable entry stays so though its frame is sealed: it was pinned when it was sealed, and no child has seen it.
  bool may_write(const Region& region, const Leaf& leaf) const {
    return (!leaf.table_shared && leaf.attributes.write) || may_write(region, leaf.address);
  }
  // Whether the program has used the page, as far as can be told (mincore). Anonymous memory.
  bool touched(const Leaf&) const;
  // Whether the region may be mapped by leaves larger than a page.
  bool takes_blocks(const Region&) const;

  // Which of a region's entries that are new for that reason withhold execution: 1: all, 0: none, n: every nth.
  std::uint32_t defers_exec(const Region&, MoveReason, Level) const;
  // Whether the next one that is mapped does.
  bool defers_exec(const Region& region) const {
    const std::uint32_t every = defers_exec(region, MoveReason::Mapped, Level::Pte);
    return every == 1 || (every != 0 && turn_.fetch_add(1, std::memory_order_relaxed) % every == 0);
  }
  static ExecHistory& history(const Region& region, Level level) {
    return level == Level::Pte ? region.pages_deferred : region.blocks_deferred;
  }
  // A fault is about to let somebody through there: if it was withheld, the history knows.
  static void note_granted(const Region& region, const Leaf& leaf, Access access) {
    if (access == Access::Execute && leaf.attributes.deferred_exec) history(region, leaf.level).ran();
  }
  ExecCosts exec_costs() const;

 private:
  SpaceCore& core_;
  mutable std::atomic<std::uint32_t> turn_{0};  // of defers_exec(). Relaxed: orders nothing
};

}  // namespace ramet::mm
