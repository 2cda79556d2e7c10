// Faults, the classic way: under the address-space lock. The lock-free engine will come before
// AddressSpace::fault() takes the lock, and fall back to fault_locked().
#include <algorithm>
#include <vector>

#include "guest-mm/address_space_impl.hpp"

namespace ramet::mm {

using State = PageTable::State;
using Level = PageTable::Level;

PageTable::Attributes AddressSpace::Impl::attributes(const Region& region, Access access) {
  PageTable::Attributes a;
  a.write = has(region.prot, Prot::Write);
  a.execute = has(region.prot, Prot::Exec);
  if (a.write && a.execute) {  // never both: the access decides which it is for now
    a.write = access != Access::Execute;
    a.execute = !a.write;
  }
  a.user = true;
  a.accessed = true;
  a.dirty = a.write;
  return a;
}

bool AddressSpace::Impl::allows(const PageTable::Attributes& a, Access access) {
  switch (access) {
    case Access::Read: return true;
    case Access::Write: return a.write && a.dirty;  // not dirty: some processors need a fault to set it
    case Access::Execute: return a.execute;
  }
  return false;
}

Result<FaultOutcome> AddressSpace::fault(Gva address, Access access) {
  FlushBatch batch = impl_->batch();
  std::lock_guard guard(impl_->lock);
  return impl_->fault_locked(address, access, false, batch);
}

Result<FaultOutcome> AddressSpace::Impl::fault_locked(Gva address, Access access, bool by_vmm, FlushBatch& batch) {
  counters.faults.add();
  if (by_vmm) counters.faults_vmm.add();
  const auto resolved = resolve_locked(align_down(address, kPageSize), access, batch);
  if (batch.pending()) batch.commit();
  if (!resolved) {
    counters.faults_refused.add();
    return fail(resolved.error());
  }
  switch (*resolved) {
    case Resolved::Zero: counters.faults_zero.add(); break;
    case Resolved::File: counters.faults_file.add(); break;
    case Resolved::Flipped: counters.faults_flipped.add(); break;
    case Resolved::Spurious: counters.faults_spurious.add(); return FaultOutcome{FaultOutcome::Kind::Spurious};
  }
  return FaultOutcome{FaultOutcome::Kind::Mapped};
}

Region* AddressSpace::Impl::region_for_fault_locked(Gva address) {
  const auto i = regions.at_or_after(address);
  if (i == regions.end()) return nullptr;
  if (i->second.contains(address)) return &i->second;
  const Region& stack = i->second;
  if (!stack.grows_down || address < config.start) return nullptr;
  Gva lowest = std::max(config.start, stack.end > config.stack_limit ? stack.end - config.stack_limit : 0);
  if (i != regions.begin()) {
    const Region& below = std::prev(i)->second;
    lowest = std::max(lowest, below.end + (below.prot == Prot::None ? 0 : RegionMap::kGuardGap));
  }
  if (address < lowest) return nullptr;
  // By whole windows: growing page by page would be a fault for each.
  regions.extend_down(i, std::max(lowest, align_down(address, config.around_pages * kPageSize)));
  return regions.find(address);
}

Result<AddressSpace::Impl::Resolved> AddressSpace::Impl::resolve_locked(Gva address, Access access, FlushBatch& batch) {
  Region* region = region_for_fault_locked(address);
  if (!region) return fail(Error::NotMapped);
  if (!permits(region->prot, access)) return fail(Error::NotPermitted);
  const PageTable::Leaf leaf = table->find(address);
  if (leaf.state == State::Absent) return map_absent_locked(*region, address, access, leaf, batch);
  if (leaf.state == State::Present && allows(leaf.attributes, access)) return Resolved::Spurious;
  table->update(leaf.start, leaf.end(), [&](const PageTable::Leaf& old) {
    auto next = attributes(*region, access);
    next.dirty = next.dirty || old.attributes.dirty;
    return PageTable::Change{State::Present, next};
  }, batch);
  return Resolved::Flipped;
}

// Where the object behind the region ends, as an address in the region; BeyondEnd if before `address`.
Result<Gva> AddressSpace::Impl::end_of_object(const Region& region, Gva address) {
  if (!region.backing) return region.end;
  const std::uint64_t size = std::min(region.backing->size(), std::uint64_t{1} << 62);
  std::uint64_t end = align_up(size, kPageSize);
  if (region.shared) {
    const auto shared = region.backing->shared();
    if (!shared.bank || region.offset_of(address) < shared.bank_offset) return fail(Error::BeyondEnd);
    end = std::min(end, shared.bank_offset + shared.bank->size());
  }
  if (region.offset_of(address) >= end) return fail(Error::BeyondEnd);
  return address + std::min(region.end - address, end - region.offset_of(address));
}

bool AddressSpace::Impl::takes_blocks(const Region& region) const {
  // A block that flips between writable and executable would take all its pages with it.
  return config.blocks && !region.backing && !region.grows_down && !region.flips() &&
         region.huge != Region::Huge::Never;
}

AroundPlan AddressSpace::Impl::plan_locked(const Region& region, Gva address, Gva end,
                                           const PageTable::Leaf& leaf) const {
  AroundInput in;
  in.address = address;
  in.start = region.start;
  in.end = end;
  in.blocks = takes_blocks(region);
  in.eager_blocks = region.huge == Region::Huge::Always;
  in.block_absent = leaf.level >= Level::Pmd;
  const Gva block = align_down(address, kBlockSize);
  if (in.blocks && in.block_absent && block > region.start) {
    const PageTable::Leaf before = table->find(block - 1);
    in.previous_is_block = before.state != State::Absent && before.level >= Level::Pmd;
  }
  if (leaf.level == Level::Pte) in.populated = table->entries(address, Level::Pte);
  in.window = config.around_pages;
  in.total_frames = frames->total();
  // Pages of a shared file take none of the VM's frames.
  in.free_frames = region.shared && region.backing ? in.total_frames : in.total_frames - frames->used();
  return plan_around(in, region.around);
}

Result<AddressSpace::Impl::Resolved> AddressSpace::Impl::map_absent_locked(Region& region, Gva address, Access access,
                                                                           const PageTable::Leaf& leaf,
                                                                           FlushBatch& batch) {
  const auto end = end_of_object(region, address);
  if (!end) return fail(end.error());
  AroundPlan plan = plan_locked(region, address, *end, leaf);
  if (plan.blocks > 0) {
    const unsigned got = map_blocks_locked(region, align_down(address, kBlockSize), plan.blocks, access, batch);
    if (got > 0) {
      counters.blocks_mapped.add(got);
      counters.blocks_around.add(got - 1);
      plan.next.up = plan.next.down + got * kBlockSize;
      plan.next.pages = got * kPagesPerBlock;
      region.around = plan.next;
      return Resolved::Zero;
    }
    plan.next = {.up = plan.end, .down = plan.start, .pages = config.around_pages};
  }
  const auto before = table->census();
  auto done = map_pages_locked(region, plan.start, plan.end, access, batch);
  if (!done && table->find(address).state == State::Absent) {
    // What lies around the page must not keep the page itself from being mapped.
    done = map_pages_locked(region, address, address + kPageSize, access, batch);
    if (!done) return fail(done.error());
  }
  region.around = plan.next;
  const auto& after = table->census();
  const std::uint64_t mapped = after.pages + after.shared_pages - before.pages - before.shared_pages;
  counters.pages_mapped.add(mapped);
  counters.pages_around.add(mapped - 1);
  return region.backing ? Resolved::File : Resolved::Zero;
}

unsigned AddressSpace::Impl::map_blocks_locked(Region& region, Gva start, unsigned count, Access access,
                                               FlushBatch& batch) {
  for (unsigned i = 0; i < count; ++i) {
    const Gva at = start + i * kBlockSize;
    const PageTable::Leaf leaf = table->find(at);
    if (leaf.state != State::Absent || leaf.level < Level::Pmd) return i;
    if (!table->prepare(at, Level::Pmd)) return i;
    const auto run = frames->allocate(FramePool::kBlockOrder, Fill::Zero);
    if (!run) return i;
    table->map(at, Level::Pmd, run->gpa, 1, attributes(region, access), batch);
  }
  return count;
}

Result<> AddressSpace::Impl::map_pages_locked(Region& region, Gva start, Gva end, Access access, FlushBatch& batch) {
  if (const Gva table_end = align_down(start, kBlockSize) + kBlockSize; end > table_end) {
    if (auto done = map_pages_locked(region, start, table_end, access, batch); !done) return done;
    return map_pages_locked(region, table_end, end, access, batch);
  }
  if (auto ready = table->prepare(start, Level::Pte); !ready) return ready;
  struct Gap {
    Gva start, end;
  };
  std::vector<Gap> gaps;
  Gva at = start;
  table->visit(start, end, [&](const PageTable::Leaf& leaf) {
    if (leaf.start > at) gaps.push_back({at, leaf.start});
    at = leaf.end();
  });
  if (at < end) gaps.push_back({at, end});
  for (const Gap& gap : gaps) {
    if (auto done = map_run_locked(region, gap.start, (gap.end - gap.start) >> kPageShift, access, batch); !done) {
      return done;
    }
  }
  return {};
}

Result<> AddressSpace::Impl::map_run_locked(Region& region, Gva start, std::uint64_t pages, Access access,
                                            FlushBatch& batch) {
  const auto entry = attributes(region, access);
  if (region.shared && region.backing) {
    const auto shared = region.backing->shared();
    const Gpa gpa = shared.bank->base() + (region.offset_of(start) - shared.bank_offset);
    table->map(start, Level::Pte, gpa, static_cast<unsigned>(pages), entry, batch);
    return {};
  }
  while (pages > 0) {
    const auto run = frames->allocate_up_to(pages, region.backing ? Fill::Overwrite : Fill::Zero);
    if (!run) return fail(run.error());
    if (region.backing) {
      const std::span<std::byte> bytes(memory.data().at(run->gpa), run->bytes());
      if (auto filled = region.backing->read(region.offset_of(start), bytes); !filled) {
        frames->free(run->gpa, run->pages());
        return filled;
      }
    }
    table->map(start, Level::Pte, run->gpa, static_cast<unsigned>(run->pages()), entry, batch);
    start += run->bytes();
    pages -= run->pages();
  }
  return {};
}

Result<> AddressSpace::Impl::populate(Gva start, Gva end, Access access, bool by_vmm) {
  // The lock is dropped between pieces, so that other threads' faults do not wait for all of it.
  while (start < end) {
    FlushBatch changes = batch();
    std::lock_guard guard(lock);
    Region* region = region_for_fault_locked(start);
    if (!region) return fail(Error::NotMapped);
    if (!permits(region->prot, access)) return fail(Error::NotPermitted);
    const PageTable::Leaf leaf = table->find(start);
    if (leaf.state != State::Absent) {
      if (leaf.state != State::Present || !allows(leaf.attributes, access)) {
        if (auto done = fault_locked(start, access, by_vmm, changes); !done) return fail(done.error());
      }
      start = leaf.end();
      continue;
    }
    const auto object_end = end_of_object(*region, start);
    if (!object_end) return fail(object_end.error());
    const Gva limit = std::min(end, *object_end);
    const bool block = takes_blocks(*region) && is_aligned(start, kBlockSize) && limit - start >= kBlockSize;
    if (block && map_blocks_locked(*region, start, 1, access, changes) == 1) {
      start += kBlockSize;
      continue;
    }
    const Gva piece = std::min(limit, align_down(start, kBlockSize) + kBlockSize);
    if (auto done = map_pages_locked(*region, start, piece, access, changes); !done) return done;
    start = piece;
  }
  return {};
}

}  // namespace ramet::mm
