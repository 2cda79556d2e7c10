// Migration: pages go to other frames while the guest runs. A piece at a time, of one table or a block:
//
//   its regions' sequences become odd: faults without the lock go the classic way, and wait for the lock
//   writable entries lose write permission, by a strict flush; pins taken before that are seen, later ones wait for
//   the lock
//   contents are copied
//   entries change frames (Walker::replace_leaves: absent in between) and keep their permissions; fetches see the copy
//   at once, or when the first fetch faults, by the policy
//
// Pages that are not writable, as code is, take one flush; writable ones take two.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "guest-mm/address_space_impl.hpp"

namespace ramet::mm {

using State = PageTable::State;

namespace {

// The sequences of the regions that a piece touches, odd for as long as this lives: no longer than the address-space
// lock.
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

ExecCosts AddressSpace::exec_costs() const { return impl_->rules.exec_costs(); }

std::optional<unsigned> AddressSpace::node_of(Gva address) const {
  const SpaceCore& core = impl_->core;
  SpaceGuard guard(core.lock);
  const PageTable::Leaf leaf = core.table->find(core.untagged(address));
  if (leaf.state != State::Present && leaf.state != State::Kept) return std::nullopt;
  return core.frames->node_of(leaf.address);
}

bool Migration::held(const PageTable::Leaf& leaf) const {
  return core_.frames->apart(leaf.address) ||
         (leaf.level == Level::Pte ? core_.pins->pinned(leaf.address) : core_.pins->any_in_block(leaf.address));
}

// The leaves of the range that can move, all of one level, and the run for them if the reason asks for one. Counts the
// pages that stay.
Migration::Moving Migration::to_move_locked(Gva start, Gva end, Journey& journey) {
  const Request& request = journey.request;
  Moving moving;
  core_.table->visit(start, end, [&](const PageTable::Leaf& leaf) {
    if (leaf.state != State::Present || leaf.level > Level::Pmd) return;
    const std::uint64_t pages = leaf.span() >> kPageShift;
    const bool ours = core_.memory.data().contains(leaf.address) && !leaf.table_shared;
    if (ours && held(leaf)) journey.done.pinned += pages;
    else if (!ours || !core_.frames->exclusive(leaf.address)) journey.done.shared += pages;
    else if (!request.node || core_.frames->node_of(leaf.address) != request.node) moving.pages.push_back({leaf});
  });
  if (!moving.pages.empty()) moving.level = moving.pages.front().leaf.level;
  if (moving.pages.empty() || !wants_run(request.reason)) return moving;
  if (moving.level == Level::Pte && moving.pages.size() == kPagesPerBlock) {
    if (const auto run = core_.frames->allocate(FramePool::kBlockOrder, Fill::Overwrite)) moving.run = *run;
  }
  if (moving.run) return moving;
  if (moving.level == Level::Pte) journey.done.failed += moving.count();  // a block is contiguous already: no failure
  return {};
}

void Migration::set_write_locked(const PageTable::Leaf& leaf, bool write, FlushBatch& batch) {
  core_.table->update(
      leaf.start, leaf.end(),
      [write](const PageTable::Leaf& now) {
        auto a = now.attributes;
        a.write = write;
        return PageTable::Change{now.state, a};
      },
      batch);
}

// The new frame of the leaf; nullopt if there is no memory.
std::optional<Gpa> Migration::place_for_locked(Gva start, const Moving& moving, const PageTable::Leaf& leaf,
                                               const Request& request) {
  if (moving.run) return moving.run->gpa + (leaf.start - start);
  const unsigned order = leaf.level == Level::Pte ? 0 : FramePool::kBlockOrder;
  const auto run = core_.frames->allocate(order, Fill::Overwrite, request.node);
  return run ? std::optional(run->gpa) : std::nullopt;
}

// Copies the pages, which no vCPU can write any more, to their new frames. Pages pinned at the last moment stay.
std::vector<PageTable::Replacement> Migration::copies_locked(Gva start, Moving& moving, Journey& journey) {
  const MoveReason reason = journey.request.reason;
  std::vector<PageTable::Replacement> copies;
  copies.reserve(moving.pages.size());
  const Region* region = nullptr;
  std::uint32_t every = 0;
  const std::uint64_t turn = ++pieces_;  // rotates which pages are the sampled ones
  for (auto& page : moving.pages) {
    const PageTable::Leaf now = core_.table->find(page.leaf.start);
    if (held(now)) {
      journey.done.pinned += now.span() >> kPageShift;
      continue;
    }
    if (!region || !region->contains(now.start)) {
      region = core_.regions.find(now.start);  // not null: a leaf of the guest's lies in a region
      if (region != journey.region || now.level != journey.level) {
        EntryRules::history(*region, now.level).conclude(reason);
        journey.region = region, journey.level = now.level,
        journey.every = rules_.defers_exec(*region, reason, now.level);
      }
      // The entries of a run have the same permissions, or the table would not become a block.
      every = moving.run && journey.every > 1 ? 0 : journey.every;
    }
    page.to = place_for_locked(start, moving, now, journey.request).value_or(0);
    if (page.to == 0) {
      journey.done.failed += now.span() >> kPageShift;
      continue;
    }
    // Unguarded: both frames are of the private bank, which is never unmapped.
    std::memcpy(core_.memory.data().at(page.to), core_.memory.data().at(now.address), now.span());
    auto as = now.attributes;
    as.write = page.leaf.attributes.write;
    as.dirty = page.leaf.attributes.dirty;
    if (as.execute || as.deferred_exec) {
      as.deferred_exec = every != 0 && (copies.size() + turn) % every == 0;
      as.execute = !as.deferred_exec;
      if (as.deferred_exec) EntryRules::history(*region, now.level).defer(reason, 1);
    }
    copies.push_back({now, page.to, as});
  }
  return copies;
}

void Migration::piece_locked(Gva start, Gva end, Journey& journey, FlushBatch& batch) {
  FramePool& frames = *core_.frames;
  const MoveReason reason = journey.request.reason;
  Moving moving = to_move_locked(start, end, journey);
  if (moving.pages.empty()) return;
  const Seized seized(core_.regions, start, end);
  for (const auto& page : moving.pages)
    if (page.leaf.attributes.write) set_write_locked(page.leaf, false, batch);
  batch.flush();
  std::atomic_thread_fence(std::memory_order_seq_cst);  // pairs with Pinning::fast(), which wants a writable entry
  const auto copies = copies_locked(start, moving, journey);
  const std::uint64_t pages = copies.size() * arch::span_of(moving.level) / kPageSize;
  const bool whole = !moving.run || copies.size() == moving.pages.size();  // a run is taken by all or by none
  const bool moved = whole && !copies.empty() &&
                     core_.table->replace_leaves(copies, {}, batch) == PageTable::Published::Done;
  (moved ? journey.done.moved : journey.done.failed) += pages;
  if (moved) core_.counters.migrated[static_cast<std::size_t>(reason)].add(pages);
  else if (moving.run) frames.free(moving.run->gpa, moving.run->pages());
  else
    for (const auto& c : copies) frames.free(c.frame, c.seen.span() >> kPageShift);
  if (moved && reason == MoveReason::MemoryFailure)
    for (const auto& c : copies) frames.quarantine(c.seen.address, c.seen.span() >> kPageShift);
  for (const auto& page : moving.pages) {
    const bool stayed = !moved || page.to == 0;
    if (stayed && page.leaf.attributes.write) set_write_locked(page.leaf, true, batch);
  }
  if (moving.level == Level::Pte && core_.table->uniform(start, Level::Pte)) batch.uniform(start, Level::Pte);
  batch.commit();
}

Migration::Migrated Migration::migrate(const Request& request) {
  Journey journey{.request = request};
  const Gva last = request.address + request.length;
  for (Gva at = request.address; at < last;) {
    const Gva end = std::min(last, align_down(at, kBlockSize) + kBlockSize);
    FlushBatch batch = core_.locked();
    const PageTable::Leaf leaf = core_.table->find(at);
    Result<> ready;
    if (leaf.state != State::Absent && leaf.level > Level::Pmd) ready = core_.table->split_to(at, Level::Pmd, batch);
    if (ready && leaf.state != State::Absent && (at % kBlockSize != 0 || end % kBlockSize != 0))
      ready = core_.split_ends_locked(at, end, batch);
    if (ready) piece_locked(at, end, journey, batch);
    else journey.done.failed += (end - at) >> kPageShift;
    at = end;
  }
  core_.counters.migrate_pinned.add(journey.done.pinned);
  core_.counters.migrate_shared.add(journey.done.shared);
  core_.counters.migrate_failed.add(journey.done.failed);
  return journey.done;
}

Result<AddressSpace::Migrated> AddressSpace::migrate(const MigrateRequest& request) {
  MigrateRequest whole = request;
  if (!is_aligned(whole.address, kPageSize) || (whole.node && *whole.node >= FramePool::kNodes))
    return fail(Error::Invalid);
  if (whole.length == 0) return Migrated{};
  if (!impl_->core.user_range(whole.address, whole.length)) return fail(Error::Invalid);
  return impl_->migration.migrate(whole);
}

Result<> AddressSpace::bind(Gva address, std::uint64_t length, std::optional<unsigned> node) {
  SpaceCore& core = impl_->core;
  if (!is_aligned(address, kPageSize) || (node && *node >= FramePool::kNodes)) return fail(Error::Invalid);
  if (length == 0) return {};
  if (!core.user_range(address, length)) return fail(Error::NotMapped);
  FlushBatch batch = core.locked();
  if (!core.regions.covered(address, address + length)) return fail(Error::NotMapped);
  return impl_->mappings.edit_locked(address, address + length, [node](Region& r) { r.node = node; }, batch);
}

}  // namespace ramet::mm
