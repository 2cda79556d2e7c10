// Migration: pages go to other frames while the guest runs. A piece at a time, of one table or a block:
//
//   its regions' sequences are odd: faults without the lock go the classic way, and wait for it
//   what is writable is closed to writes, strictly; pins taken meanwhile are seen, later ones wait for the lock
//   contents are copied
//   entries change frames (Walker::replace_leaves: absent in between), with their permissions; fetches see the copy at
//   once, or when the first one faults, by the policy
//
// What is executable and not writable, as code is, takes one flush; else it is two.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "guest-mm/address_space_impl.hpp"

namespace ramet::mm {

using State = PageTable::State;
using Level = PageTable::Level;

namespace {

// The sequences of the regions that a piece touches, odd for as long as this lives: no longer than the address-space lock.
class Seized {
 public:
  Seized(const RegionMap& regions, Gva start, Gva end) {
    for (const Region* r = regions.at_or_after(start); r && r->start < end; r = regions.next(*r)) {
      regions_.push_back(r);
      r->sequence.begin();
    }
  }
  ~Seized() {
    for (const Region* r : regions_) r->sequence.end();
  }
  Seized(const Seized&) = delete;
  Seized& operator=(const Seized&) = delete;

 private:
  std::vector<const Region*> regions_;
};

bool wants_run(MoveReason reason) { return reason == MoveReason::Compaction || reason == MoveReason::Contiguous; }

}  // namespace

// Leaves of one level and table that move, as they were found.
struct AddressSpace::Impl::Moving {
  struct Page {
    PageTable::Leaf leaf;
    Gpa to = 0;  // 0: it stays
  };
  std::vector<Page> pages;
  Level level = Level::Pte;
  std::optional<FramePool::Run> run = {};  // for all of a table
  std::uint64_t count() const { return pages.size() * arch::span_of(level) / kPageSize; }
};

std::uint32_t AddressSpace::Impl::defers_exec(const Region& region, MoveReason why, Level level) const {
  if (config.exec_sync == ExecSync::Eager || !tlb.needs_exec_sync()) return 0;
  if (config.exec_sync == ExecSync::Lazy) return 1;
  return history(region, level).every(why, exec_costs(), arch::span_of(level) >> kPageShift);
}

ExecCosts AddressSpace::Impl::exec_costs() const {
  const auto mean = [](std::uint64_t sum, std::uint64_t n) { return n ? static_cast<double>(sum) / static_cast<double>(n) : 0; };
  return {.sync = mean(counters.exec_sync_time, counters.exec_syncs),
          .fault = mean(counters.exec_fault_time, counters.exec_faults) + static_cast<double>(config.exit_cost)};
}

ExecCosts AddressSpace::exec_costs() const { return impl_->exec_costs(); }

std::optional<unsigned> AddressSpace::node_of(Gva address) const {
  SpaceGuard guard(impl_->lock);
  const PageTable::Leaf leaf = impl_->table->find(impl_->untagged(address));
  if (leaf.state != State::Present && leaf.state != State::Kept) return std::nullopt;
  return impl_->frames->node_of(leaf.address);
}

bool AddressSpace::Impl::held(const PageTable::Leaf& leaf) const {
  return frames->apart(leaf.address) || (leaf.level == Level::Pte ? pins->pinned(leaf.address) : pins->any_in_block(leaf.address));
}

// What of the range can go elsewhere, all of one level; and where to, if that is one run. Counts what stays.
AddressSpace::Impl::Moving AddressSpace::Impl::to_move_locked(Gva start, Gva end, const MigrateRequest& request, Migrated& done) {
  Moving moving;
  table->visit(start, end, [&](const PageTable::Leaf& leaf) {
    if (leaf.state != State::Present || leaf.level > Level::Pmd) return;
    const std::uint64_t pages = leaf.span() >> kPageShift;
    const bool own = memory.data().contains(leaf.address) && !leaf.shared;
    if (own && held(leaf)) done.pinned += pages;
    else if (!own || !frames->exclusive(leaf.address)) done.shared += pages;
    else if (!request.node || frames->node_of(leaf.address) != request.node) moving.pages.push_back({leaf});
  });
  if (!moving.pages.empty()) moving.level = moving.pages.front().leaf.level;
  if (moving.pages.empty() || !wants_run(request.reason)) return moving;
  if (moving.level == Level::Pte && moving.pages.size() == kPagesPerBlock) {
    if (const auto run = frames->allocate(FramePool::kBlockOrder, Fill::Overwrite)) moving.run = *run;
  }
  if (moving.run) return moving;
  if (moving.level == Level::Pte) done.failed += moving.count();  // a block is one run already
  return {};
}

void AddressSpace::Impl::set_write_locked(const PageTable::Leaf& leaf, bool write, FlushBatch& batch) {
  table->update(leaf.start, leaf.end(), [write](const PageTable::Leaf& now) {
    auto a = now.attributes;
    a.write = write;
    return PageTable::Change{now.state, a};
  }, batch);
}

// Of what nobody can write any more, in their new frames. Those that were pinned at the last moment stay.
std::vector<PageTable::Replacement> AddressSpace::Impl::copies_locked(Gva start, Moving& moving, const MigrateRequest& request, Deferring& deferring, Migrated& done) {
  std::vector<PageTable::Replacement> copies;
  copies.reserve(moving.pages.size());
  const Region* region = nullptr;
  std::uint32_t every = 0;
  const std::uint64_t turn = ++migrations;  // not the same pages every time
  for (auto& page : moving.pages) {
    const PageTable::Leaf now = table->find(page.leaf.start);
    if (held(now)) {
      done.pinned += now.span() >> kPageShift;
      continue;
    }
    if (!region || !region->contains(now.start)) {
      region = regions.find(now.start);  // there is one, where something of the guest's is mapped
      if (region != deferring.region || now.level != deferring.level) {
        history(*region, now.level).settle(request.reason);
        deferring = {region, now.level, defers_exec(*region, request.reason, now.level)};
      }
      every = moving.run && deferring.every > 1 ? 0 : deferring.every;  // or the table would not become a block
    }
    if (moving.run) page.to = moving.run->gpa + (now.start - start);
    else if (const auto run = frames->allocate(now.level == Level::Pte ? 0 : FramePool::kBlockOrder, Fill::Overwrite, request.node)) page.to = run->gpa;
    if (page.to == 0) {
      done.failed += now.span() >> kPageShift;
      continue;
    }
    // Unguarded: both frames are of the private bank, memory that nobody else can take away.
    std::memcpy(memory.data().at(page.to), memory.data().at(now.address), now.span());
    auto as = now.attributes;
    as.write = page.leaf.attributes.write;
    as.dirty = page.leaf.attributes.dirty;
    if (as.execute || as.deferred_exec) {
      as.deferred_exec = every != 0 && (copies.size() + turn) % every == 0;
      as.execute = !as.deferred_exec;
      if (as.deferred_exec) history(*region, now.level).defer(request.reason, 1);
    }
    copies.push_back({now, page.to, as});
  }
  return copies;
}

void AddressSpace::Impl::migrate_locked(Gva start, Gva end, const MigrateRequest& request, Deferring& deferring, Migrated& done, FlushBatch& batch) {
  Moving moving = to_move_locked(start, end, request, done);
  if (moving.pages.empty()) return;
  const Seized seized(regions, start, end);
  for (const auto& page : moving.pages)
    if (page.leaf.attributes.write) set_write_locked(page.leaf, false, batch);
  batch.flush();
  std::atomic_thread_fence(std::memory_order_seq_cst);  // pairs with pin_fast(), which wants a writable entry
  const auto copies = copies_locked(start, moving, request, deferring, done);
  const std::uint64_t pages = copies.size() * arch::span_of(moving.level) / kPageSize;
  const bool whole = !moving.run || copies.size() == moving.pages.size();  // a run is taken by all or by none
  const bool moved = whole && !copies.empty() && table->replace_leaves(copies, {}, batch) == Published::Done;
  (moved ? done.moved : done.failed) += pages;
  if (moved) counters.migrated[static_cast<std::size_t>(request.reason)].add(pages);
  else if (moving.run) frames->free(moving.run->gpa, moving.run->pages());
  else
    for (const auto& c : copies) frames->free(c.frame, c.seen.span() >> kPageShift);
  if (moved && request.reason == MoveReason::MemoryFailure)
    for (const auto& c : copies) frames->quarantine(c.seen.address, c.seen.span() >> kPageShift);
  for (const auto& page : moving.pages) {
    const bool stayed = !moved || page.to == 0;
    if (stayed && page.leaf.attributes.write) set_write_locked(page.leaf, true, batch);
  }
  if (moving.level == Level::Pte && table->uniform(start, Level::Pte)) batch.uniform(start, Level::Pte);
  batch.commit();
}

Result<AddressSpace::Migrated> AddressSpace::migrate(const MigrateRequest& request) {
  Impl& m = *impl_;
  Gva address = request.address;
  std::uint64_t length = request.length;
  if (!is_aligned(address, kPageSize) || (request.node && *request.node >= FramePool::kNodes)) return fail(Error::Invalid);
  Migrated done;
  Impl::Deferring deferring;
  if (length == 0) return done;
  if (!m.user_range(address, length)) return fail(Error::Invalid);
  for (Gva at = address; at < address + length;) {
    const Gva end = std::min(address + length, align_down(at, kBlockSize) + kBlockSize);
    FlushBatch batch = m.locked();
    const PageTable::Leaf leaf = m.table->find(at);
    Result<> ready;
    if (leaf.state != State::Absent && leaf.level > Level::Pmd) ready = m.table->split_to(at, Level::Pmd, batch);
    if (ready && leaf.state != State::Absent && (at % kBlockSize != 0 || end % kBlockSize != 0)) ready = m.split_ends_locked(at, end, batch);
    if (ready) m.migrate_locked(at, end, request, deferring, done, batch);
    else done.failed += (end - at) >> kPageShift;
    at = end;
  }
  m.counters.migrate_pinned.add(done.pinned);
  m.counters.migrate_shared.add(done.shared);
  m.counters.migrate_failed.add(done.failed);
  return done;
}

Result<> AddressSpace::bind(Gva address, std::uint64_t length, std::optional<unsigned> node) {
  Impl& m = *impl_;
  if (!is_aligned(address, kPageSize) || (node && *node >= FramePool::kNodes)) return fail(Error::Invalid);
  if (length == 0) return {};
  if (!m.user_range(address, length)) return fail(Error::NotMapped);
  FlushBatch batch = m.locked();
  if (!m.regions.covered(address, address + length)) return fail(Error::NotMapped);
  if (!m.regions.room(address, address + length, 0)) return fail(Error::NoMemory);
  m.regions.seize(address, address + length);
  const auto cut = m.split_ends_locked(address, address + length, batch);
  if (cut) m.regions.change(address, address + length, [node](Region& r) { r.node = node; });
  else m.regions.release(address, address + length);
  batch.commit();
  return cut;
}

}  // namespace ramet::mm
