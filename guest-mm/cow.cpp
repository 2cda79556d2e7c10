// Copy-on-write: a write to a page that belongs to a layer gets a frame of its own. As with other faults, first
// without the address-space lock, then with it.
#include <algorithm>
#include <array>

#include "guest-mm/address_space_impl.hpp"
#include "guest-mm/snapshot.hpp"

namespace ramet::mm {

using State = PageTable::State;
using Level = PageTable::Level;

struct AddressSpace::Impl::Copies {
  static constexpr unsigned kMost = 64;
  std::array<PageTable::Replacement, kMost> items;
  unsigned count = 0;
  std::uint64_t counted = 0;  // frames in flight
  std::span<const PageTable::Replacement> all() const { return {items.data(), count}; }
};

// Pages written one after the other are copied ahead, twice as many each time; a page written somewhere, alone.
Result<> AddressSpace::Impl::take_copies(const Region& region, Gva address, const PageTable::Leaf& leaf, bool limited, Copies& copies) {
  const bool block = leaf.level == Level::Pmd;
  const AroundState last = region.copied.load();
  const unsigned wanted = block ? 1 : address == last.up ? std::clamp(2 * last.pages, 1u, Copies::kMost) : 1;
  const Gva table_end = align_down(address, kBlockSize) + kBlockSize;
  const Gva end = block ? leaf.end() : std::min({address + wanted * kPageSize, table_end, region.end});
  copies.counted = limited ? (end - leaf.start) >> kPageShift : 0;
  if (limited) {
    const std::uint64_t budget = config.speculative_frames ? config.speculative_frames : frames->total() / 8;
    if (in_flight.fetch_add(copies.counted, std::memory_order_relaxed) + copies.counted > budget) {
      in_flight.fetch_sub(copies.counted, std::memory_order_relaxed);
      copies.counted = 0;
      return fail(Error::NoMemory);
    }
  }
  auto attributes = Impl::attributes(region, Access::Write);
  for (Gva at = leaf.start; at < end; at += leaf.span()) {
    const PageTable::Leaf seen = at == leaf.start ? leaf : table->find(at);
    const bool same_kind = seen.state == State::Present && seen.table == leaf.table && seen.level == leaf.level && !seen.shared;
    if (!same_kind || may_write(region, seen)) break;
    Result<FramePool::Run> run = fail(Error::NoMemory);
    if (block) {
      run = frames->allocate(FramePool::kBlockOrder, Fill::Overwrite);
    } else if (const auto place = table->place_for(leaf.table, leaf.level, at); place && config.merge && takes_blocks(region)) {
      run = frames->allocate_at(*place, 1, Fill::Overwrite);
    }
    if (!run && !block) run = frames->allocate(0, Fill::Overwrite);
    if (!run && copies.count == 0) return fail(run.error());
    if (!run) break;
    // Others may be writing there: then the entry has changed, and the copy is thrown away. A layer may be a mapped
    // snapshot file that somebody damages: then it cannot be read.
    memory.bring(seen.address, leaf.span());
    if (auto copied = copy_guarded(memory.data().at(run->gpa), memory.host(seen.address), leaf.span()); !copied) {
      frames->free(run->gpa, run->pages());
      if (copies.count == 0) return copied;
      break;
    }
    if (!config.eager_accessed_dirty && at != leaf.start) attributes.accessed = attributes.dirty = false;
    copies.items[copies.count++] = {seen, run->gpa, attributes};
  }
  return {};
}

void AddressSpace::Impl::give_back(const Copies& copies) {
  for (const auto& c : copies.all()) frames->free(c.frame, c.seen.span() >> kPageShift);
}

static void note_copied(const Region& region, std::span<const PageTable::Replacement> done, Counters& counters, HotPages& hot) {
  std::uint64_t pages = 0;
  hot.note(done.front().seen.start);
  for (const auto& c : done) pages += c.seen.span() >> kPageShift;
  counters.pages_copied.add(pages);
  region.copied.store({.up = done.back().seen.end(), .down = 0, .pages = static_cast<unsigned>(done.size())});
}

std::optional<AddressSpace::Impl::Settled> AddressSpace::Impl::try_copy(const Region& region, Gva address,
                                                                      const PageTable::Leaf& leaf, Guard guard) {
  // A larger leaf is split first, unless the region wants it whole; what may be thawed needs no copy.
  if (leaf.level > Level::Pmd || (leaf.level == Level::Pmd && region.huge != Region::Huge::Always)) return std::nullopt;
  // Where pages flip between writable and executable, one that is pinned meanwhile could not be told, see pin_fast().
  if (frames->thawable() || region.flips() || tlb.waits()) return std::nullopt;
  Copies copies;
  Settled settled{.how = Published::OverBudget, .resolved = Resolved::Copied};
  SpeculativeFlush flush(parts());
  if (take_copies(region, address, leaf, true, copies)) {
    // None: what shared the page with us went meanwhile.
    settled.how = copies.count == 0 ? Published::Changed : table->replace_leaves(copies.all(), guard, flush);
  }
  if (settled.how == Published::Done) note_copied(region, copies.all(), counters, hot);
  else give_back(copies);
  in_flight.fetch_sub(copies.counted, std::memory_order_relaxed);
  return settled;
}

Result<bool> AddressSpace::Impl::copy_locked(const Region& region, Gva address, FlushBatch& batch) {
  if (thaw_locked()) return false;
  PageTable::Leaf leaf = table->find(address);
  if (leaf.state != State::Present || leaf.shared) return false;
  Copies copies;
  Result<> taken = fail(Error::NoMemory);
  if (leaf.level == Level::Pmd && region.huge == Region::Huge::Always) taken = take_copies(region, address, leaf, false, copies);
  if (!taken) {
    if (auto split = table->split_to(address, Level::Pte, batch); !split) return fail(split.error());
    leaf = table->find(address);
    if (taken = take_copies(region, address, leaf, false, copies); !taken) return fail(taken.error());
  }
  if (copies.count == 0) return false;  // it became our own meanwhile
  if (table->replace_leaves(copies.all(), {}, batch) != Published::Done) {
    give_back(copies);
    return false;
  }
  note_copied(region, copies.all(), counters, hot);
  if (leaf.level == Level::Pte && table->uniform(address, Level::Pte)) batch.uniform(address, Level::Pte);
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

void AddressSpace::copy_hot(const Snapshot& snapshot) {
  Impl& m = *impl_;
  FlushBatch batch = m.locked();
  for (const Gva page : snapshot.hot) {
    const PageTable::Leaf leaf = m.table->find(page);
    const Region* region = m.regions.find(page);
    if (!region || !has(region->prot, Prot::Write) || leaf.state != State::Present || leaf.level != Level::Pte) continue;
    if (!m.fault_locked(page, Access::Write, true, batch)) break;  // as good as before, only later
  }
}

}  // namespace ramet::mm
