// Faults without the address-space lock (Zijlstra; Dufour, "Speculative page faults", 2018). In short:
//
//   region = look-up without locks; sequence = region.sequence; odd: classic
//   entry  = walk without locks; changing: classic
//   the last table is missing? one that was put by goes into its slot, as entries are published; none left: classic
//   frames = within the budget of frames in flight, zeroed or read from the file
//   lock the table, tried once; busy: classic
//   the table is still in the tree, the region's sequence is as it was, the slots are still empty?  else classic
//   publish the entries; unlock
//
// Once an unmap has made the sequence odd, no fault that began before can publish: it looks under the table lock,
// which the unmap takes later to clear the table. Regions and tables are freed after a grace period (rcu.hpp).
#include <algorithm>

#include "guest-mm/address_space_impl.hpp"
#include "guest-mm/rcu.hpp"

namespace ramet::mm {

using State = PageTable::State;

Result<FaultOutcome> AddressSpace::fault(Gva address, Access access) {
  address = impl_->untagged(address);
  if (access == Access::Execute && impl_->tlb.needs_exec_sync()) return impl_->timed_fault(address);
  return impl_->fault(address, access);
}

Result<FaultOutcome> AddressSpace::Impl::fault(Gva address, Access access) {
  if (config.speculative_faults) {
    if (const auto done = speculative_fault(align_down(address, kPageSize), access)) return count(*done);
  }
  FlushBatch batch = locked();
  return fault_locked(address, access, false, batch);
}

// What it takes to let a fetch through, but for the sync. Other threads' syncs and grants meanwhile blur it: it is a mean.
Result<FaultOutcome> AddressSpace::Impl::timed_fault(Gva address) {
  const std::uint64_t began = tlb.now(), granted = counters.exec_granted, syncs = counters.exec_sync_time;
  const auto done = fault(address, Access::Execute);
  if (counters.exec_granted == granted) return done;
  const std::uint64_t took = tlb.now() - began, in_syncs = counters.exec_sync_time - syncs;
  counters.exec_fault_time.add(took - std::min(took, in_syncs));
  counters.exec_faults.add();
  return done;
}

std::optional<AddressSpace::Impl::Resolved> AddressSpace::Impl::speculative_fault(Gva address, Access access) {
  std::optional<Settled> settled;
  {
    rcu::Reader reader;
    settled = try_speculative(address, access);
  }
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
  if (settled->uniform) {
    FlushBatch batch = locked();
    batch.uniform(address, *settled->uniform);
    batch.commit();
  }
  return settled->resolved;
}

// Within an rcu::Reader. Nothing: not a case for it; the classic way finds the right error, too.
std::optional<AddressSpace::Impl::Settled> AddressSpace::Impl::try_speculative(Gva address, Access access) {
  const Region* region = regions.find(address);
  if (!region) return std::nullopt;
  const Guard guard{&region->sequence, region->sequence.read()};
  if (SequenceCount::changing(guard.value)) return Settled{.how = Published::Changed};
  if (!permits(region->prot, access)) return std::nullopt;
  const PageTable::Leaf leaf = table->find(address);
  switch (leaf.state) {
    case State::Changing: return Settled{.how = Published::TableGone};
    case State::Kept: return Settled{.how = Published::Changed};
    case State::Present: {
      if (serves(leaf, access)) return Settled{};
      if (leaf.shared) return Settled{.how = Published::TableGone};
      if (region->flips()) return std::nullopt;  // would lose the other permission: strict
      if (access == Access::Write && !may_write(*region, leaf)) return try_copy(*region, address, leaf, guard);
      SpeculativeFlush flush(parts());
      note_granted(*region, leaf, access);
      const Published how = table->upgrade(leaf, upgraded(*region, leaf, access), guard, flush);
      return Settled{.how = how, .resolved = Resolved::Flipped};
    }
    case State::Absent: break;
  }
  if (leaf.shared) return Settled{.how = Published::TableGone};
  const auto settled = map_absent(*region, address, access, leaf, guard, nullptr);
  if (settled) return *settled;
  if (settled.error() == Error::NoMemory) return Settled{.how = Published::OverBudget};
  return std::nullopt;
}

}  // namespace ramet::mm
