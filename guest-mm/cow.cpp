// Copy-on-write: a write to a page that belongs to a layer gets a frame of its own. As with other faults, first
// without the address-space lock, then with it.
#include <algorithm>
#include <array>
#include <bit>

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
  bool in_order = true;       // a page, and those that follow it
  std::span<const PageTable::Replacement> all() const { return {items.data(), count}; }
};

// The stretch around a page about to be copied whose other pages are copied with it, so that they are one run of frames and
// need no faults of their own. It has as many pages as copies were made in the table so far, rounded down to a power of two and 64
// at most: few writes bring few copies. Empty: no larger stretch around it has become the VM's own by half, as it does when
// every second page is written; or memory is short; or the other pages may be wanted executable. (Linux's khugepaged copies the
// shared rest of a block where half of it is the process's own: max_ptes_shared.)
AddressSpace::Impl::Crowd AddressSpace::Impl::crowd(const Region& region, const PageTable::Leaf& page) const {
  constexpr std::uint64_t kLeastPages = 8;
  if (page.level != Level::Pte || page.shared || region.flips()) return {};
  const std::uint64_t pages = std::min(std::bit_floor(tables->info(page.table).copies.load(std::memory_order_relaxed) + 1u), Copies::kMost);
  if (pages < kLeastPages) return {};
  const std::uint64_t free = frames->total() - std::min(frames->used(), frames->total());
  if (free < std::max<std::uint64_t>(frames->total() / 8, kPagesPerBlock)) return {};
  const auto around = [&](std::uint64_t n) {
    const Gva start = align_down(page.start, n * kPageSize);
    return Crowd{std::max(start, region.start), std::min(start + n * kPageSize, region.end)};
  };
  std::uint64_t own = 1;  // the page itself
  const auto count = [&](const PageTable::Leaf& leaf) { own += leaf.attributes.write; };
  Crowd counted{page.start, page.start};
  for (std::uint64_t n = 2 * pages; n <= kPagesPerBlock; n *= 2) {
    const Crowd next = around(n);
    if (next.start < counted.start) table->visit(next.start, counted.start, count);
    if (counted.end < next.end) table->visit(counted.end, next.end, count);
    counted = next;
    if (2 * own >= n) return around(pages);
  }
  return {};
}

// Pages written one after the other are copied ahead, twice as many each time; pages between those written, where these are
// half of all around; a page written somewhere, alone.
Result<> AddressSpace::Impl::take_copies(const Region& region, Gva address, const PageTable::Leaf& leaf, bool limited, Copies& copies) {
  const bool block = leaf.level == Level::Pmd;
  const AroundState last = region.copied.load();
  const unsigned wanted = !block && address == last.up ? std::clamp(2 * last.pages, 1u, Copies::kMost) : 1;
  const Gva table_end = align_down(address, kBlockSize) + kBlockSize;
  const Gva end = block ? leaf.end() : std::min({address + wanted * kPageSize, table_end, region.end});
  const Crowd among = wanted == 1 ? crowd(region, leaf) : Crowd();
  copies.counted = limited ? (among.empty() ? end - leaf.start : among.end - among.start) >> kPageShift : 0;
  if (limited) {
    const std::uint64_t budget = config.speculative_frames ? config.speculative_frames : frames->total() / 8;
    if (in_flight.fetch_add(copies.counted, std::memory_order_relaxed) + copies.counted > budget) {
      in_flight.fetch_sub(copies.counted, std::memory_order_relaxed);
      copies.counted = 0;
      return fail(Error::NoMemory);
    }
  }
  const auto attributes = Impl::attributes(region, Access::Write);
  const auto look = [&](Gva at) { return at == leaf.start ? leaf : table->find(at); };
  const auto wants_copy = [&](const PageTable::Leaf& seen) {
    return seen.state == State::Present && seen.table == leaf.table && seen.level == leaf.level && !seen.shared && !may_write(region, seen);
  };
  const auto take = [&](const PageTable::Leaf& seen) -> Result<> {
    Result<FramePool::Run> run = fail(Error::NoMemory);
    if (block) {
      run = frames->allocate(FramePool::kBlockOrder, Fill::Overwrite);
    } else if (const auto place = table->place_for(leaf.table, leaf.level, seen.start); place && config.merge && takes_blocks(region)) {
      run = frames->allocate_at(*place, 1, Fill::Overwrite);
    }
    if (!run && !block) run = frames->allocate(0, Fill::Overwrite);
    if (!run) return fail(run.error());
    // Others may be writing there: then the entry has changed, and the copy is thrown away. A layer may be a mapped
    // snapshot file that somebody damages: then it cannot be read.
    memory.bring(seen.address, leaf.span());
    if (auto copied = copy_guarded(memory.data().at(run->gpa), memory.host(seen.address), leaf.span()); !copied) {
      frames->free(run->gpa, run->pages());
      return copied;
    }
    auto as = attributes;
    if (seen.start != leaf.start) {
      as.ahead = seen.attributes.ahead;
      if (!config.eager_accessed_dirty) as.accessed = as.dirty = false;
    }
    copies.items[copies.count++] = {seen, run->gpa, as};
    return {};
  };
  if (!among.empty()) {
    bool reached = false;
    for (Gva at = among.start; at < among.end; at += kPageSize) {
      const PageTable::Leaf seen = look(at);
      if (!wants_copy(seen)) continue;
      if (!take(seen)) break;
      reached = reached || at == leaf.start;
    }
    copies.in_order = false;
    if (reached) return {};
    give_back(copies);
    copies.count = 0;
  }
  for (Gva at = leaf.start; at < end; at += leaf.span()) {
    const PageTable::Leaf seen = look(at);
    if (!wants_copy(seen)) break;
    if (auto taken = take(seen); !taken) {
      if (copies.count == 0) return taken;
      break;
    }
  }
  return {};
}

void AddressSpace::Impl::give_back(const Copies& copies) {
  for (const auto& c : copies.all()) frames->free(c.frame, c.seen.span() >> kPageShift);
}

void AddressSpace::Impl::note_copied(const Region& region, const Copies& copies) {
  const auto done = copies.all();
  std::uint64_t pages = 0;
  hot.note(done.front().seen.start);
  for (const auto& c : done) pages += c.seen.span() >> kPageShift;
  counters.pages_copied.add(pages);
  const PageTable::Leaf& last = done.back().seen;
  region.copied.store({.up = copies.in_order ? last.end() : 0, .down = 0, .pages = static_cast<unsigned>(done.size())});
  if (last.level == Level::Pte) tables->info(last.table).copies.fetch_add(1, std::memory_order_relaxed);
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
  if (settled.how == Published::Done) note_copied(region, copies);
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
  note_copied(region, copies);
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
