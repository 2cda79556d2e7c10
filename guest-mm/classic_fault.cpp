// Faults, the classic way: with the address-space lock. No region changes meanwhile, but entries do: faults without the
// lock publish, upgrade and copy under table locks. So an entry that was found is compared again under its table's
// lock before it is changed.
#include <algorithm>

#include "guest-mm/address_space_impl.hpp"

namespace ramet::mm {

using State = PageTable::State;

Result<FaultOutcome> Faults::classic_fault(Gva address, Access access) {
  FlushBatch batch = core_.locked();
  return fault_locked(address, access, false, batch);
}

void Faults::merge_found(Gva address, Level level) {
  FlushBatch batch = core_.locked();
  batch.uniform(address, level);
  batch.commit();
}

Result<FaultOutcome> Faults::fault_locked(Gva address, Access access, bool by_vmm, FlushBatch& batch) {
  if (by_vmm) core_.counters.faults_vmm.add();
  const auto resolved = resolve_locked(align_down(address, kPageSize), access, batch);
  batch.finish();
  return count(resolved);
}

const Region* Faults::region_for_fault_locked(Gva address) {
  const AddressSpace::Config& config = core_.config;
  RegionMap& regions = core_.regions;
  const Region* stack = regions.at_or_after(address);
  if (!stack || stack->contains(address)) return stack;
  if (!stack->grows_down || address < config.start) return nullptr;
  Gva lowest = std::max(config.start, stack->end > config.stack_limit ? stack->end - config.stack_limit : 0);
  if (const Region* below = regions.last_below(stack->start)) {
    lowest = std::max(lowest, below->end + (below->prot == Prot::None ? 0 : RegionMap::kGuardGap));
  }
  if (address < lowest) return nullptr;
  // By whole windows: growing page by page would take a fault for each.
  const Gva start = std::max(lowest, align_down(address, config.around_pages * kPageSize));
  banks_.grown_locked(*stack, stack->start - start);
  return regions.extend_down(*stack, start);
}

Result<Resolved> Faults::resolve_locked(Gva address, Access access, FlushBatch& batch) {
  const Region* region = region_for_fault_locked(address);
  if (!region) return fail(Error::NotMapped);
  if (!permits(region->prot, access)) return fail(Error::NotPermitted);
  for (;;) {
    const Found found{*region, address, access, core_.table->find(address)};
    if (found.leaf.state == State::Absent) {
      const auto settled = map_absent_locked(found, batch);
      // The slot is no longer empty: a fault without the lock has put a block where a table was to be made (Invalid),
      // or a table where a block was to go.
      if (!settled && settled.error() == Error::Invalid) continue;
      if (!settled) return fail(settled.error());
      if (!settled->there) continue;
      if (settled->uniform) batch.uniform(address, *settled->uniform);
      return settled->resolved;
    }
    if (found.leaf.state == State::Changing) {
      // A fault without the address-space lock is replacing the entry by a copy, and holds the table's lock until that
      // is done.
      TableLock wait(core_.tables->info(found.leaf.table));
      continue;
    }
    if (found.leaf.state == State::Present && EntryRules::serves(found.leaf, access)) return Resolved::Spurious;
    const auto resolved = resolve_present_locked(found, batch);
    if (resolved || resolved.error() != Error::Invalid) return resolved;
  }
}

// The leaf is present or kept, and does not serve the access yet. Errors: NoMemory; Invalid: look it up again.
Result<Resolved> Faults::resolve_present_locked(const Found& found, FlushBatch& batch) {
  const auto& [region, address, access, leaf, guard] = found;
  if (leaf.table_shared) {
    core_.thaw_locked();
    if (auto done = core_.table->unshare(address, leaf.level, batch); !done) return fail(done.error());
    const auto now = core_.table->find(address);
    if (EntryRules::serves(now, access)) return Resolved::Flipped;
    if (now.state != leaf.state || now.level != leaf.level || now.table_shared) return fail(Error::Invalid);
    return resolve_present_locked({region, address, access, now}, batch);
  }
  if (access == Access::Write && !rules_.may_write(region, leaf)) {
    const auto copied = copies_.copy_locked(region, address, batch);
    if (!copied) return fail(copied.error());
    return *copied ? Result<Resolved>(Resolved::Copied) : fail(Error::Invalid);
  }
  EntryRules::note_granted(region, leaf, access);
  core_.table->update_leaf(
      leaf,
      [&](const PageTable::Leaf& old) {
        return PageTable::Change{State::Present, rules_.upgraded(region, old, access)};
      },
      batch);
  return Resolved::Flipped;
}

// Maps the planned blocks. nullopt: no block can be had; small pages may be.
std::optional<Settled> Faults::map_blocks_locked(const Found& found, const AroundPlan& planned, FlushBatch& batch) {
  const Gva start = align_down(found.address, kBlockSize);
  const auto table = core_.table->prepare(start, Level::Pmd, batch);
  if (!table) return std::nullopt;
  const auto outcome = map_window({found, Level::Pmd, *table, start, end_of_blocks(planned, start)});
  if (!outcome) return std::nullopt;
  note_blocks(found.region, start, *outcome);
  return settled(found.region, *outcome, Level::Pmd);
}

Result<Settled> Faults::map_pages_locked(const Found& found, const AroundPlan& planned, FlushBatch& batch) {
  const auto& [region, address, access, leaf, guard] = found;
  const Gva block = align_down(address, kBlockSize);
  const auto table = core_.table->prepare(address, Level::Pte, batch);
  if (!table) return fail(table.error());
  if (leaf.level > Level::Pte && core_.config.speculative_faults) core_.tables->stock_up();
  const Gva from = std::max(planned.start, block), to = std::min(planned.end, block + kBlockSize);
  auto outcome = map_window({found, Level::Pte, *table, from, to, Window::Asked::Page});
  // If the window cannot be mapped, the page by itself may be.
  if (!outcome) outcome = map_window({found, Level::Pte, *table, address, address + kPageSize});
  if (!outcome) return fail(outcome.error());
  region.around.store(planned.next);
  // The window of a small region may reach into the tables beside this one.
  for (const auto& [start, stop] : {std::pair{planned.start, from}, std::pair{to, planned.end}}) {
    if (start >= stop) continue;
    const auto beside = core_.table->prepare(start, Level::Pte, batch);
    if (!beside) continue;
    const Found there{region, start, access, leaf};
    if (const auto more = map_window({there, Level::Pte, *beside, start, stop, Window::Asked::None}))
      outcome->mapped += more->mapped;
  }
  return settled(region, *outcome, Level::Pte);
}

Result<Settled> Faults::map_absent_locked(const Found& found, FlushBatch& batch) {
  const auto end = end_of_object(found.region, found.address);
  if (!end) return fail(end.error());
  AroundPlan planned = plan(found, *end);
  if (planned.blocks > 0) {
    if (const auto done = map_blocks_locked(found, planned, batch)) return *done;
    planned.next = {.up = planned.end, .down = planned.start, .pages = core_.config.around_pages};
  }
  return map_pages_locked(found, planned, batch);
}

}  // namespace ramet::mm
