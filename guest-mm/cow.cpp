// Copy-on-write: a write to a page that belongs to a layer gets a frame of its own. As with other faults, first
// without the address-space lock, then with it.
#include "guest-mm/copy_on_write.hpp"

#include <algorithm>
#include <bit>

#include "guest-mm/address_space_impl.hpp"
#include "guest-mm/frozen_memory.hpp"

namespace ramet::mm {

using State = PageTable::State;
using Level = PageTable::Level;

// The pages around `page` that are copied with it, into one run of frames, to save their faults: as many as copies were
// made in the table so far, rounded down to a power of two and 64 at most, so that few writes cause few copies. Only if
// half of a larger range around the page is writable already, as where every second page is written; memory is not
// short; and the region does not flip to executable. Empty otherwise. (Linux's khugepaged copies the shared rest of a
// block where half of it is the process's own: max_ptes_shared.)
Range CopyOnWrite::cluster(const Region& region, const PageTable::Leaf& page) const {
  constexpr std::uint64_t kLeastPages = 8;
  if (page.level != Level::Pte || page.table_shared || region.flips()) return {};
  const std::uint64_t made = core_.tables->info(page.table).copies.load(std::memory_order_relaxed);
  const std::uint64_t pages = std::min<std::uint64_t>(std::bit_floor(made + 1), Copies::kMost);
  if (pages < kLeastPages) return {};
  const std::uint64_t total = core_.frames->total(), free = total - std::min(core_.frames->used(), total);
  if (free < std::max<std::uint64_t>(total / 8, kPagesPerBlock)) return {};
  const auto around = [&](std::uint64_t n) {
    const Gva start = align_down(page.start, n * kPageSize);
    return Range{std::max(start, region.start), std::min(start + n * kPageSize, region.end)};
  };
  std::uint64_t writable = 1;  // the page itself will be
  const auto count = [&](const PageTable::Leaf& leaf) { writable += leaf.attributes.write; };
  Range counted{page.start, page.start};
  for (std::uint64_t n = 2 * pages; n <= kPagesPerBlock; n *= 2) {
    const Range next = around(n);
    if (next.start < counted.start) core_.table->visit(next.start, counted.start, count);
    if (counted.end < next.end) core_.table->visit(counted.end, next.end, count);
    counted = next;
    if (2 * writable >= n) return around(pages);
  }
  return {};
}

// Whether the leaf is to be copied with that of `f`: it is in the same table, present, and not writable.
bool CopyOnWrite::wants_copy(const Found& f, const PageTable::Leaf& seen) const {
  return seen.state == State::Present && seen.table == f.leaf.table && seen.level == f.leaf.level &&
         !seen.table_shared && !rules_.may_write(f.region, seen);
}

// Copies one leaf, if possible to the frame with which the table could become a block again. Errors: NoMemory;
// BeyondEnd if the layer cannot be read.
Result<> CopyOnWrite::copy_one(const Found& f, const PageTable::Leaf& seen, Copies& copies) {
  FramePool& frames = *core_.frames;
  const bool block = f.leaf.level == Level::Pmd;
  Result<FramePool::Run> run = fail(Error::NoMemory);
  if (block) {
    run = frames.allocate(FramePool::kBlockOrder, Fill::Overwrite);
  } else if (const auto place = core_.table->place_for(f.leaf.table, f.leaf.level, seen.start);
             place && core_.config.merge && rules_.takes_blocks(f.region)) {
    run = frames.allocate_at(*place, 1, Fill::Overwrite);
  }
  if (!run && !block) run = frames.allocate(0, Fill::Overwrite);
  if (!run) return fail(run.error());
  // The guest may write the page meanwhile, if it has become writable: then its entry has changed, and this copy is
  // thrown away. A layer may be a mapped snapshot file, which may be truncated: then it cannot be read.
  Memory& memory = core_.memory;
  memory.bring(seen.address, seen.span());
  if (auto copied = copy_guarded(memory.data().at(run->gpa), memory.host(seen.address), seen.span()); !copied) {
    frames.free(run->gpa, run->pages());
    return copied;
  }
  auto as = rules_.attributes(f.region, Access::Write);
  if (seen.start != f.leaf.start) {
    as.ahead = seen.attributes.ahead;
    if (!core_.config.eager_accessed_dirty) as.accessed = as.dirty = false;
  }
  copies.items[copies.count++] = {seen, run->gpa, as};
  return {};
}

// Copies each read-only page in `among` until memory runs out. Errors: NoMemory, with nothing copied, if the faulting
// page was not reached.
Result<> CopyOnWrite::copy_cluster(const Found& f, const Range& among, Copies& copies) {
  bool reached = false;
  for (Gva at = among.start; at < among.end; at += kPageSize) {
    const PageTable::Leaf seen = at == f.leaf.start ? f.leaf : core_.table->find(at);
    if (!wants_copy(f, seen)) continue;
    if (!copy_one(f, seen, copies)) break;
    reached = reached || at == f.leaf.start;
  }
  copies.in_order = false;
  if (reached) return {};
  give_back(copies);
  copies.count = 0;
  return fail(Error::NoMemory);
}

// Copies the faulting page and those that follow it, up to the first that is writable. Errors: as copy_one(), if the
// faulting page could not be copied.
Result<> CopyOnWrite::copy_in_order(const Found& f, Gva end, Copies& copies) {
  for (Gva at = f.leaf.start; at < end; at += f.leaf.span()) {
    const PageTable::Leaf seen = at == f.leaf.start ? f.leaf : core_.table->find(at);
    if (!wants_copy(f, seen)) break;
    if (auto copied = copy_one(f, seen, copies); !copied) {
      if (copies.count == 0) return copied;
      break;
    }
  }
  return {};
}

// Copies the faulting page, and ahead of further faults: after writes in sequence the following pages, twice as many
// each time; where half of the pages around it are writable, the rest of these; else none.
Result<> CopyOnWrite::make_copies(const Found& f, bool limited, Copies& copies) {
  const bool block = f.leaf.level == Level::Pmd;
  const AroundState last = f.region.copied.load();
  const unsigned wanted = !block && f.address == last.up ? std::clamp(2 * last.pages, 1u, Copies::kMost) : 1;
  const Gva table_end = align_down(f.address, kBlockSize) + kBlockSize;
  const Gva end = block ? f.leaf.end() : std::min({f.address + wanted * kPageSize, table_end, f.region.end});
  const Range among = wanted == 1 ? cluster(f.region, f.leaf) : Range();
  if (limited) {
    const std::uint64_t most = (among.empty() ? end - f.leaf.start : among.end - among.start) >> kPageShift;
    if (!core_.in_flight.take(most, core_.most_in_flight())) return fail(Error::NoMemory);
    copies.counted = most;
  }
  if (!among.empty() && copy_cluster(f, among, copies)) return {};
  return copy_in_order(f, end, copies);
}

void CopyOnWrite::give_back(const Copies& copies) {
  for (const auto& c : copies.all()) core_.frames->free(c.frame, c.seen.span() >> kPageShift);
}

void CopyOnWrite::note_copied(const Region& region, const Copies& copies) {
  const auto done = copies.all();
  std::uint64_t pages = 0;
  hot_.note(done.front().seen.start);
  for (const auto& c : done) pages += c.seen.span() >> kPageShift;
  core_.counters.pages_copied.add(pages);
  const PageTable::Leaf& last = done.back().seen;
  region.copied.store({.up = copies.in_order ? last.end() : 0, .down = 0, .pages = static_cast<unsigned>(done.size())});
  if (last.level == Level::Pte) core_.tables->info(last.table).copies.fetch_add(1, std::memory_order_relaxed);
}

std::optional<Settled> CopyOnWrite::try_copy(const Found& f) {
  // The classic path splits a huge leaf, unless the region is MADV_HUGEPAGE.
  if (f.leaf.level > Level::Pmd || (f.leaf.level == Level::Pmd && f.region.huge != Region::Huge::Always))
    return std::nullopt;
  // The classic path thaws first, which may save the copy. Where pages flip between writable and executable, a pin
  // taken meanwhile could be missed, see Pinning::fast(). A flush that may wait for something outside the VMM
  // must not be made within an rcu::Reader.
  if (core_.frames->thawable() || f.region.flips() || core_.tlb.waits()) return std::nullopt;
  Copies copies;
  Settled settled{.how = PageTable::Published::OverBudget, .resolved = Resolved::Copied};
  SpeculativeFlush flush(core_.flush_parts());
  if (make_copies(f, true, copies)) {
    // No copies: the frame has become exclusive meanwhile, as the layer's other users have gone.
    settled.how = copies.count == 0 ? PageTable::Published::Changed
                                    : core_.table->replace_leaves(copies.all(), f.guard, flush);
  }
  if (settled.how == PageTable::Published::Done) note_copied(f.region, copies);
  else give_back(copies);
  core_.in_flight.give(copies.counted);
  return settled;
}

Result<bool> CopyOnWrite::copy_locked(const Region& region, Gva address, FlushBatch& batch) {
  if (core_.thaw_locked()) return false;
  PageTable::Leaf leaf = core_.table->find(address);
  if (leaf.state != State::Present || leaf.table_shared) return false;
  Copies copies;
  Result<> made = fail(Error::NoMemory);
  if (leaf.level == Level::Pmd && region.huge == Region::Huge::Always)
    made = make_copies({region, address, Access::Write, leaf}, false, copies);
  if (!made) {
    if (auto split = core_.table->split_to(address, Level::Pte, batch); !split) return fail(split.error());
    leaf = core_.table->find(address);
    if (made = make_copies({region, address, Access::Write, leaf}, false, copies); !made) return fail(made.error());
  }
  if (copies.count == 0) return false;  // the frame became exclusive meanwhile
  if (core_.table->replace_leaves(copies.all(), {}, batch) != PageTable::Published::Done) {
    give_back(copies);
    return false;
  }
  note_copied(region, copies);
  if (leaf.level == Level::Pte && core_.table->uniform(address, Level::Pte)) batch.uniform(address, Level::Pte);
  return true;
}

void HotPages::note(Gva page) {
  if (since_freeze_.load(std::memory_order_relaxed) >= kEachTime) return;
  for (const auto& p : pages_) {
    if (p.load(std::memory_order_relaxed) == page) return;
  }
  since_freeze_.fetch_add(1, std::memory_order_relaxed);
  pages_[next_.fetch_add(1, std::memory_order_relaxed) % kMost].store(page, std::memory_order_relaxed);
}

std::vector<Gva> HotPages::at_freeze() {
  since_freeze_.store(0, std::memory_order_relaxed);
  std::vector<Gva> all;
  for (const auto& p : pages_) {
    if (const Gva page = p.load(std::memory_order_relaxed)) all.push_back(page);
  }
  return all;
}

void AddressSpace::copy_hot(const FrozenMemory& frozen) {
  SpaceCore& core = impl_->core;
  FlushBatch batch = core.locked();
  for (const Gva page : frozen.hot) {
    const PageTable::Leaf leaf = core.table->find(page);
    const Region* region = core.regions.find(page);
    if (!region || !has(region->prot, Prot::Write) || leaf.state != State::Present || leaf.level != Level::Pte)
      continue;
    if (!impl_->faults.fault_locked(page, Access::Write, true, batch))
      break;  // no harm: the page is copied when it is written
  }
}

}  // namespace ramet::mm
