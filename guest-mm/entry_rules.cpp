// What entries may allow.
#include "guest-mm/entry_rules.hpp"

namespace ramet::mm {

using State = PageTable::State;

EntryRules::Attributes EntryRules::withheld(PageTable::Attributes a) {
  a.deferred_exec = a.deferred_exec || a.execute;
  a.execute = false;
  return a;
}

EntryRules::Attributes EntryRules::attributes(const Region& region, Access access) const {
  PageTable::Attributes a;
  a.write = has(region.prot, Prot::Write);
  a.execute = has(region.prot, Prot::Exec);
  if (a.write && a.execute) {  // W^X: the access decides which of the two
    a.write = access != Access::Execute;
    a.execute = !a.write;
  }
  if (access != Access::Execute && a.execute && defers_exec(region)) a = withheld(a);
  a.user = true;
  a.accessed = true;
  a.dirty = a.write;
  return a;
}

EntryRules::Attributes EntryRules::as_accessed(PageTable::Attributes a, bool accessed, bool written) {
  a.accessed = accessed;
  a.dirty = a.dirty && written;
  return a;
}

EntryRules::Attributes EntryRules::attributes(const Region& region, Access access, Gpa frame) const {
  PageTable::Attributes a = attributes(region, access);
  if (a.write && !may_write(region, frame)) a.write = a.dirty = false;
  return a;
}

bool EntryRules::may_write(const Region& region, Gpa frame) const {
  return region.shows_object() || core_.frames->exclusive(frame) || core_.pins->pinned(frame);
}

bool EntryRules::allows(const PageTable::Leaf& leaf, Access access) {
  const PageTable::Attributes& a = leaf.attributes;
  if (leaf.hidden) return false;
  switch (access) {
    case Access::Read: return true;
    case Access::Write: return a.write && a.dirty;  // not dirty: some processors need a fault to set it
    case Access::Execute: return a.execute;
  }
  return false;
}

EntryRules::Attributes EntryRules::upgraded(const Region& region, const PageTable::Leaf& leaf, Access access) const {
  if (leaf.state == State::Present && allows(leaf, access)) {
    auto used = leaf.attributes;
    used.accessed = true, used.ahead = false;
    return used;
  }
  auto next = access == Access::Write ? attributes(region, access) : attributes(region, access, leaf.address);
  next.dirty = next.dirty || leaf.attributes.dirty;
  return next;
}

bool EntryRules::takes_blocks(const Region& region) const {
  // A block that flips between writable and executable would take all its pages with it.
  return core_.config.blocks && !region.backing && !region.grows_down && !region.flips() &&
         region.huge != Region::Huge::Never;
}

PageTable::Change EntryRules::protection(const Region& region, const PageTable::Leaf& leaf) const {
  const auto& old = leaf.attributes;
  if (region.prot == Prot::None) return {PageTable::State::Kept, old};
  // An executable page stays executable if the new protection allows it, even where that allows writing as well: then
  // the first write flips it.
  const bool was_code = leaf.state == PageTable::State::Present && old.execute && !old.write;
  const Access as = has(region.prot, Prot::Exec) && was_code ? Access::Execute : Access::Write;
  auto next = attributes(region, as, leaf.address);
  next.dirty = next.dirty || old.dirty;
  next.ahead = old.ahead;
  if (next.deferred_exec && !old.deferred_exec) history(region, leaf.level).defer(MoveReason::Mapped, 1);
  return {PageTable::State::Present, next};
}

std::uint32_t EntryRules::defers_exec(const Region& region, MoveReason why, Level level) const {
  if (core_.config.exec_sync == AddressSpace::ExecSync::Eager || !core_.tlb.needs_exec_sync()) return 0;
  if (core_.config.exec_sync == AddressSpace::ExecSync::Lazy) return 1;
  return history(region, level).every(why, exec_costs(), arch::span_of(level) >> kPageShift);
}

ExecCosts EntryRules::exec_costs() const {
  const auto mean = [](std::uint64_t sum, std::uint64_t n) {
    return n ? static_cast<double>(sum) / static_cast<double>(n) : 0;
  };
  return {.sync = mean(core_.counters.exec_sync_time, core_.counters.exec_syncs),
          .fault = mean(core_.counters.exec_fault_time, core_.counters.exec_faults) +
                   static_cast<double>(core_.config.exit_cost)};
}

}  // namespace ramet::mm
