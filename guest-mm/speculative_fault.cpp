// Faults without the address-space lock (Zijlstra; Dufour, "Speculative page faults", 2018). In short:
//
//   region = look-up without locks; sequence = region.sequence; odd: classic
//   entry  = walk without locks; changing: classic
//   the last table is missing: a stocked one is published in its slot; none left: classic
//   frames = zeroed or read from the file, within the bound on frames in flight; over it: classic
//   lock the table, tried once; busy: classic
//   the table has left the tree, or the region's sequence has changed: classic; slots that are not empty are skipped
//   publish the entries; unlock
//
// Once an unmap has made the sequence odd, no fault that began before can publish: the fault checks the sequence under
// the table lock, which the unmap takes later to clear the table. Regions and tables are freed after a grace period
// (rcu.hpp).
#include <algorithm>

#include "guest-mm/address_space_impl.hpp"
#include "guest-mm/rcu.hpp"

namespace ramet::mm {

using State = PageTable::State;

std::optional<Resolved> Faults::speculative_fault(Gva address, Access access) {
  Counters& counters = core_.counters;
  const std::optional<Settled> settled = [&] {
    rcu::Reader reader;
    return try_speculative(address, access);
  }();
  if (!settled) {
    counters.spf_not_supported.add();
    return std::nullopt;
  }
  switch (settled->how) {
    case Published::Done: break;
    case Published::Busy: counters.spf_pte_lock.add(); return std::nullopt;
    case Published::Changed: counters.spf_region_changed.add(); return std::nullopt;
    case Published::TableGone: counters.spf_table_changed.add(); return std::nullopt;
    case Published::OverBudget: counters.spf_budget.add(); return std::nullopt;
  }
  counters.spf.add();
  if (settled->uniform) merge_found(address, *settled->uniform);
  return settled->resolved;
}

// Precondition: within an rcu::Reader. nullopt: the fault takes the classic way, which also finds the right error.
std::optional<Settled> Faults::try_speculative(Gva address, Access access) {
  const Region* region = core_.regions.find(address);
  if (!region) return std::nullopt;
  const PageTable::Guard guard{&region->sequence, region->sequence.read()};
  if (SequenceCount::changing(guard.value)) return Settled{.how = Published::Changed};
  if (!permits(region->prot, access)) return std::nullopt;
  const Found found{*region, address, access, core_.table->find(address), guard};
  const PageTable::Leaf& leaf = found.leaf;
  switch (leaf.state) {
    case State::Changing: return Settled{.how = Published::TableGone};
    case State::Kept: return Settled{.how = Published::Changed};
    case State::Present: {
      if (EntryRules::serves(leaf, access)) return Settled{};
      if (leaf.table_shared) return Settled{.how = Published::TableGone};
      // The entry would have to lose the other permission: a strict flush, which is the classic way's.
      if (region->flips()) return std::nullopt;
      if (access == Access::Write && !rules_.may_write(*region, leaf)) return copies_.try_copy(found);
      SpeculativeFlush flush(core_.flush_parts());
      EntryRules::note_granted(*region, leaf, access);
      const Published how = core_.table->upgrade(leaf, rules_.upgraded(*region, leaf, access), guard, flush);
      return Settled{.how = how, .resolved = Resolved::Flipped};
    }
    case State::Absent: break;
  }
  if (leaf.table_shared) return Settled{.how = Published::TableGone};
  const auto settled = map_absent(found);
  if (settled) return *settled;
  if (settled.error() == Error::NoMemory) return Settled{.how = Published::OverBudget};
  if (settled.error() == Error::NotMapped) return Settled{.how = Published::TableGone};
  return std::nullopt;
}

Faults::Published Faults::add_table(const Found& found, const AroundPlan& planned, Gpa& table) {
  if (found.leaf.level != Level::Pmd) return Published::TableGone;
  // A window that reaches into the next table is mapped with the lock, all at once.
  const Gva block = align_down(found.address, kBlockSize);
  if (planned.start < block || planned.end > block + kBlockSize) return Published::TableGone;
  return core_.table->add_table(found.leaf.table, found.address, found.guard, table);
}

// Errors: NotMapped (a table is missing), besides those of take_frames() and end_of_object().
Result<Settled> Faults::map_absent(const Found& found) {
  const auto& [region, address, access, leaf, guard] = found;
  const auto end = end_of_object(region, address, true);
  if (!end) return fail(end.error());
  const AroundPlan planned = plan(found, *end);
  if (planned.blocks > 0) {
    if (leaf.level != Level::Pmd) return fail(Error::NotMapped);
    const Gva start = align_down(address, kBlockSize);
    const auto outcome = map_window({found, Level::Pmd, leaf.table, start, end_of_blocks(planned, start)});
    if (!outcome) return fail(outcome.error());
    note_blocks(region, start, *outcome);
    return settled(region, *outcome, Level::Pmd);
  }
  Gpa table = leaf.table;
  if (leaf.level != Level::Pte) {
    if (const Published added = add_table(found, planned, table); added != Published::Done)
      return Settled{.how = added};
  }
  const Gva block = align_down(address, kBlockSize);
  const Gva from = std::max(planned.start, block), to = std::min(planned.end, block + kBlockSize);
  const auto outcome = map_window({found, Level::Pte, table, from, to, Window::Asked::Page});
  if (!outcome) return fail(outcome.error());
  region.around.store(planned.next);
  return settled(region, *outcome, Level::Pte);
}

}  // namespace ramet::mm
