// Faults, the classic way: under the address-space lock. speculative_fault.cpp comes before it.
#include <algorithm>
#include <array>

#include "guest-mm/address_space_impl.hpp"

namespace ramet::mm {

using State = PageTable::State;

Result<FaultOutcome> AddressSpace::Impl::count(Result<Resolved> resolved) {
  counters.faults.add();
  if (!resolved) {
    counters.faults_refused.add();
    return fail(resolved.error());
  }
  switch (*resolved) {
    case Resolved::Zero: counters.faults_zero.add(); break;
    case Resolved::File: counters.faults_file.add(); break;
    case Resolved::Flipped: counters.faults_flipped.add(); break;
    case Resolved::Copied: counters.faults_cow.add(); break;
    case Resolved::Spurious: counters.faults_spurious.add(); return FaultOutcome{FaultOutcome::Kind::Spurious};
  }
  return FaultOutcome{FaultOutcome::Kind::Mapped};
}

Result<FaultOutcome> AddressSpace::Impl::fault_locked(Gva address, Access access, bool by_vmm, FlushBatch& batch) {
  if (by_vmm) counters.faults_vmm.add();
  const auto resolved = resolve_locked(align_down(address, kPageSize), access, batch);
  batch.finish();
  return count(resolved);
}

const Region* AddressSpace::Impl::region_for_fault_locked(Gva address) {
  const Region* stack = regions.at_or_after(address);
  if (!stack || stack->contains(address)) return stack;
  if (!stack->grows_down || address < config.start) return nullptr;
  Gva lowest = std::max(config.start, stack->end > config.stack_limit ? stack->end - config.stack_limit : 0);
  if (const Region* below = regions.last_below(stack->start)) {
    lowest = std::max(lowest, below->end + (below->prot == Prot::None ? 0 : RegionMap::kGuardGap));
  }
  if (address < lowest) return nullptr;
  // By whole windows: growing page by page would be a fault for each.
  return regions.extend_down(*stack, std::max(lowest, align_down(address, config.around_pages * kPageSize)));
}

Result<AddressSpace::Impl::Resolved> AddressSpace::Impl::resolve_locked(Gva address, Access access, FlushBatch& batch) {
  const Region* region = region_for_fault_locked(address);
  if (!region) return fail(Error::NotMapped);
  if (!permits(region->prot, access)) return fail(Error::NotPermitted);
  for (;;) {
    const PageTable::Leaf leaf = table->find(address);
    if (leaf.state == State::Absent) {
      const auto settled = map_absent(*region, address, access, leaf, {}, &batch);
      if (!settled && settled.error() == Error::Invalid) continue;  // a speculative fault put a block there
      if (!settled) return fail(settled.error());
      if (table->find(address).state == State::Absent) continue;  // or a table, where a block was to go
      if (settled->uniform) batch.uniform(address, *settled->uniform);
      return settled->resolved;
    }
    if (leaf.state == State::Changing) {
      TableLock wait(tables->info(leaf.table));  // a fault without our lock is about to finish a copy there
      continue;
    }
    if (leaf.state == State::Present && serves(leaf, access)) return Resolved::Spurious;
    if (leaf.shared) {
      thaw_locked();
      if (auto owned = table->own(address, leaf.level, batch); !owned) return fail(owned.error());
      if (const auto now = table->find(address); serves(now, access)) return Resolved::Flipped;
    }
    if (access == Access::Write && !may_write(*region, leaf)) {
      const auto copied = copy_locked(*region, address, batch);
      if (!copied) return fail(copied.error());
      if (*copied) return Resolved::Copied;
      continue;
    }
    note_granted(*region, leaf, access);
    table->update(leaf.start, leaf.end(), [&](const PageTable::Leaf& old) {
      return PageTable::Change{State::Present, upgraded(*region, old, access)};
    }, batch);
    return Resolved::Flipped;
  }
}

Result<> AddressSpace::Impl::populate(Gva start, Gva end, Access access, bool by_vmm) {
  // The lock is dropped between pieces, so that other threads' faults do not wait for all of it.
  while (start < end) {
    FlushBatch batch = locked();
    const Region* region = region_for_fault_locked(start);
    if (!region) return fail(Error::NotMapped);
    if (!permits(region->prot, access)) return fail(Error::NotPermitted);
    const PageTable::Leaf leaf = table->find(start);
    if (leaf.state != State::Absent) {
      if (leaf.state != State::Present || !allows(leaf, access)) {
        if (auto done = fault_locked(start, access, by_vmm, batch); !done) return fail(done.error());
      } else if (leaf.attributes.ahead) {
        if (auto owned = table->own(leaf.start, leaf.level, batch); !owned) return owned;
        table->update(leaf.start, leaf.end(), [](const PageTable::Leaf& old) {
          auto asked_for = old.attributes;
          asked_for.ahead = false;
          return PageTable::Change{old.state, asked_for};
        }, batch);
      }
      start = leaf.end();
      continue;
    }
    const auto object_end = end_of_object(*region, start);
    if (!object_end) return fail(object_end.error());
    const Gva limit = std::min(end, *object_end);
    const bool block = takes_blocks(*region) && leaf.level >= PageTable::Level::Pmd && is_aligned(start, kBlockSize) &&
                       limit - start >= kBlockSize;
    if (block && table->prepare(start, PageTable::Level::Pmd, batch)) {
      const auto filled = fill({*region, start, access, {}, PageTable::Level::Pmd, start, start + kBlockSize, {}});
      if (filled && filled->mapped == 1) {
        start += kBlockSize;
        continue;
      }
    }
    const Gva piece = std::min(limit, align_down(start, kBlockSize) + kBlockSize);
    if (auto ready = table->prepare(start, PageTable::Level::Pte, batch); !ready) {
      if (ready.error() == Error::Invalid) continue;  // a speculative fault put a block there
      return ready;
    }
    const auto filled = fill({*region, start, access, {}, PageTable::Level::Pte, start, piece, {}});
    if (!filled) return fail(filled.error());
    if (filled->uniform) batch.uniform(start, PageTable::Level::Pte);
    // A ragged window is filled bit by bit: go on where the first page is missing.
    std::array<PageTable::Gap, 1> missing;
    const bool all = table->absent(*table->table_at(start, PageTable::Level::Pte), PageTable::Level::Pte, start, piece, missing) == 0;
    start = all ? piece : missing[0].start;
  }
  return {};
}

}  // namespace ramet::mm
