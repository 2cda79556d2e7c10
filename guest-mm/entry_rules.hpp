// What an entry of a region may allow: that depends on the region's protection, on whether the frame is exclusive, and
// on the policy for instruction syncs (ExecSync). Both ways of a fault, protection changes and migration ask here.
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

  // What an entry may allow after that access: by the region alone, or with the given frame.
  Attributes attributes(const Region&, Access) const;
  Attributes attributes(const Region&, Access, Gpa frame) const;
  // The same with execution withheld until the first fetch.
  static Attributes withheld(Attributes);
  // With only those accessed and dirty bits that the access needs; the processor sets the others.
  static Attributes as_accessed(Attributes, bool accessed, bool written);
  // What a fault makes of a leaf that does not serve the access; `region` permits it, and for a write the frame does.
  Attributes upgraded(const Region&, const Leaf&, Access) const;
  // What becomes of a leaf when its region gets another protection.
  PageTable::Change protection(const Region&, const Leaf&) const;

  static bool allows(const Leaf&, Access);
  // Whether a processor needs no fault for that access: processors that do not set the accessed bit by themselves fault
  // on an entry without it.
  static bool serves(const Leaf& leaf, Access access) { return leaf.attributes.accessed && allows(leaf, access); }
  // Whether the frame may be written: it is exclusive, pinned, or the object's of a shared region.
  bool may_write(const Region&, Gpa frame) const;
  // A writable entry of a sealed frame stays writable: the frame was pinned at the freeze, and no child can map it.
  bool may_write(const Region& region, const Leaf& leaf) const {
    return (!leaf.table_shared && leaf.attributes.write) || may_write(region, leaf.address);
  }
  // Whether the program has used the page, as far as can be told (mincore). Anonymous memory.
  bool touched(const Leaf&) const;
  // Whether the region may be mapped by leaves larger than a page.
  bool takes_blocks(const Region&) const;

  // Which of a region's new entries, by the reason why they are new, withhold execution. 0: none, 1: all, n: every nth.
  std::uint32_t defers_exec(const Region&, MoveReason, Level) const;
  // Whether the next fault's entry is deferred.
  bool defers_exec(const Region& region) const {
    const std::uint32_t every = defers_exec(region, MoveReason::Mapped, Level::Pte);
    return every == 1 || (every != 0 && turn_.fetch_add(1, std::memory_order_relaxed) % every == 0);
  }
  static ExecHistory& history(const Region& region, Level level) {
    return level == Level::Pte ? region.pages_deferred : region.blocks_deferred;
  }
  // To be called before a fault grants the access: the history counts fetches from pages that withheld execution.
  static void note_granted(const Region& region, const Leaf& leaf, Access access) {
    if (access == Access::Execute && leaf.attributes.deferred_exec) history(region, leaf.level).ran();
  }
  ExecCosts exec_costs() const;

 private:
  SpaceCore& core_;
  mutable std::atomic<std::uint32_t> turn_{0};  // of defers_exec(). Relaxed: orders nothing
};

}  // namespace ramet::mm
