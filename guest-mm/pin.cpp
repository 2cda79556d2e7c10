// Pins, and what a freeze does about them (Xu, "mm: Break COW for pinned pages during fork()", 2020): the VM keeps a
// pinned frame, its address and its permission; children get a copy of what it holds at that moment, at once. Read pins
// count as well, and so does a page that mprotect made read-only: a frame is pinned, not a permission.
#include "guest-mm/pin.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "guest-mm/address_space_impl.hpp"
#include "guest-mm/rcu.hpp"

namespace ramet::mm {

using State = PageTable::State;
using Level = PageTable::Level;

// Without a lock, as get_user_pages_fast(): take the pin, then see whether what it was taken on is still so. Read pins
// as well want an entry that is writable: one that is not may be about to be replaced, by a copy on write that began
// when the frame was still part of a layer.
std::optional<PinHold> AddressSpace::Impl::pin_fast(Gva page, Access access) {
  rcu::Reader reader;
  const std::uint32_t sequence = freezing.read();
  if (SequenceCount::changing(sequence)) return std::nullopt;
  const Region* region = regions.find(page);
  if (!region || region->shared || !permits(region->prot, access)) return std::nullopt;
  const auto own = [&]() -> std::optional<Gpa> {
    const PageTable::Leaf leaf = table->find(page);
    if (leaf.state != State::Present || leaf.shared || !allows(leaf, Access::Write)) return std::nullopt;
    const Gpa frame = leaf.address + (page - leaf.start);
    return frames->exclusive(frame) ? std::optional(frame) : std::nullopt;
  };
  const auto frame = own();
  if (!frame) return std::nullopt;
  PinHold hold = pins->hold(*frame, page, 1);
  std::atomic_thread_fence(std::memory_order_seq_cst);  // pairs with freeze()
  if (own() == frame && freezing.unchanged(sequence)) return hold;
  return std::nullopt;
}

Result<PageTable::Leaf> AddressSpace::Impl::pin_locked(Gva page, Access access, FlushBatch& batch) {
  for (;;) {
    const Region* before = regions.find(page);
    // As pin_fast(). Nobody copies in a region that does not permit writing.
    const bool copies = before && !before->shared && has(before->prot, Prot::Write);
    const auto leaf = touch_locked(page, copies ? Access::Write : access, batch);
    if (!leaf) return leaf;
    const Region* region = regions.find(page);  // a fault may have grown it
    if (may_write(*region, *leaf) || pins->pinned(leaf->address + (page - leaf->start))) return leaf;
    // For a device that reads as well: it is to see what the owner writes later.
    if (leaf->shared) {
      thaw_locked();
      if (auto owned = table->own(page, leaf->level, batch); !owned) return fail(owned.error());
    } else if (auto copied = copy_locked(*region, page, batch); !copied) {
      return fail(copied.error());
    }
  }
}

// A long-term pin's pages go to the pin bank first: what its device writes is then out of the reach even of a child that
// broke out of its page tables. They are closed to the guest's writes, copied and replaced, as by copy on write. A page
// that is pinned already stays where it is, and so does one that flips between writable and executable.
Result<> AddressSpace::Impl::move_apart_locked(Gva start, Gva end, Access access, FlushBatch& batch) {
  constexpr unsigned kRounds = 8;  // a guest that writes all the time gets its way
  const auto movable = [&](Gva page, const PageTable::Leaf& leaf) {
    const Region* region = regions.find(page);
    const Gpa frame = leaf.address + (page - leaf.start);
    return region && !region->shared && !region->flips() && memory.data().contains(frame) && !frames->apart(frame) &&
           !pins->pinned(frame);
  };
  for (unsigned round = 0; round < kRounds; ++round) {
    bool any = false;
    for (Gva page = start; page < end; page += kPageSize) {
      const auto leaf = pin_locked(page, access, batch);
      if (!leaf) return fail(leaf.error());
      if (!movable(page, *leaf)) continue;
      any = true;
      if (auto split = table->split_to(page, Level::Pte, batch); !split) return split;
      table->update(page, page + kPageSize, [](const PageTable::Leaf& old) {
        auto read_only = old.attributes;
        read_only.write = false;
        return PageTable::Change{old.state, read_only};
      }, batch);
    }
    if (!any) return {};
    batch.commit();
    std::atomic_thread_fence(std::memory_order_seq_cst);  // pairs with pin_fast(), which wants a writable entry
    std::vector<PageTable::Replacement> moves;
    Result<> done;
    for (Gva page = start; page < end && done; page += kPageSize) {
      if (!movable(page, table->find(page))) continue;
      if (done = table->split_to(page, Level::Pte, batch); !done) break;  // where nothing was to be closed, all is a block again
      const PageTable::Leaf leaf = table->find(page);
      if (leaf.state != State::Present || leaf.attributes.write) continue;
      if (const auto to = frames->allocate_apart()) {
        // Unguarded: both frames are of the private bank, memory that nobody else can take away.
        std::memcpy(memory.data().at(*to), memory.data().at(leaf.address), kPageSize);
        moves.push_back({leaf, *to, attributes(*regions.find(page), Access::Write)});
      } else {
        done = fail(to.error());
      }
    }
    const bool moved = done && !moves.empty() && table->replace_leaves(moves, {}, batch) == Published::Done;
    for (const auto& m : moves) {
      if (moved) counters.pages_moved_pinned.add();
      else frames->free(m.frame, 1);
    }
    batch.commit();
    if (!done) return done;
  }
  return {};
}

PinHold AddressSpace::Impl::hold_locked(Gpa first, Gva at, std::uint64_t bytes) {
  if (!config.pinned_cow) return {};
  const Gpa from = align_down(first, kPageSize);
  const std::uint64_t pages = (align_up(first + bytes, kPageSize) - from) >> kPageShift;
  return pins->hold(from, align_down(at, kPageSize), static_cast<std::uint32_t>(pages));
}

Result<Pin> AddressSpace::pin(Gva address, std::uint64_t length, Access access, PinTerm term, std::size_t most) {
  Impl& m = *impl_;
  address = m.untagged(address);
  if (length == 0 || address > m.config.end || length > m.config.end - address) return fail(Error::NotMapped);
  Pin pin(account());
  auto& ranges = pin.ranges_;
  // False: there is no memory for one more piece.
  const auto add = [&](Gva at, Gpa frame, std::uint64_t bytes, std::shared_ptr<Bank> keep, PinHold hold) {
    const HostBytes host(keep->from(frame).subspan(at & (kPageSize - 1), bytes));
    HostRange range{host, std::move(keep), std::move(hold)};
    if (ranges.empty() || !ranges.back().join(range)) {
      if (!pin.charge_.room_for_one(ranges)) return false;
      ranges.push_back(std::move(range));
    }
    pin.bytes_ += bytes;
    return true;
  };
  const Gva last = align_up(address + length, kPageSize);
  for (Gva at = align_down(address, kPageSize); term == PinTerm::Long && m.config.pinned_cow && at < last;) {
    constexpr std::uint64_t kPiece = 64 * kPageSize;  // of one table
    const Gva end = std::min(last, align_down(at, kPiece) + kPiece);
    FlushBatch batch = m.locked();
    const auto moved = m.move_apart_locked(at, end, access, batch);
    batch.commit();
    if (!moved) return fail(moved.error());
    at = end;
  }
  for (Gva at = address; at < address + length && ranges.size() <= most;) {
    const Gva page = align_down(at, kPageSize);
    const std::uint64_t bytes = std::min(page + kPageSize, address + length) - at;
    if (auto hold = m.pin_fast(page, access)) {
      const Gpa frame = hold->first();
      if (!m.config.pinned_cow) hold = PinHold();
      if (!add(at, frame, bytes, memory_.bank_of(frame), std::move(*hold))) return fail(Error::NoMemory);
    } else {
      FlushBatch batch = m.locked();
      const auto leaf = m.pin_locked(page, access, batch);
      if (!leaf) return fail(leaf.error());
      const Gpa own = leaf->address + (page - leaf->start);
      auto keep = memory_.bank_of(own);
      if (!keep) return fail(Error::BeyondEnd);
      if (!add(at, own, bytes, std::move(keep), m.hold_locked(own, page, kPageSize))) return fail(Error::NoMemory);
    }
    at += bytes;
  }
  if (ranges.size() > most) {
    pin.bytes_ -= ranges.back().bytes.size();
    ranges.pop_back();
  }
  return pin;
}

// All pinned pages that are mapped, in tables of their own, with frames for their copies. Errors: NoMemory.
Result<std::vector<AddressSpace::Impl::PinnedPage>> AddressSpace::Impl::pinned_pages_locked(FlushBatch& batch) {
  std::vector<PinnedPage> pages;
  pins->visit([&](Gpa frame, Gva at) {
    if (!frames->apart(frame)) pages.push_back({.at = at, .frame = frame, .copy = 0});
  });
  // All of the pin bank, pinned now or not: no child can be shown it there.
  frames->visit_apart([&](Gpa frame) { pages.push_back({.at = pins->last_place(frame).value_or(0), .frame = frame, .copy = 0}); });
  const auto moved = std::ranges::partition(pages, [&](const PinnedPage& p) {
    const PageTable::Leaf l = table->find(p.at);
    return l.state != State::Absent && p.frame - l.address < l.span() && p.frame - l.address == p.at - l.start;
  });
  if (!moved.empty()) {
    // Since they were pinned they have moved (mremap), or been unmapped: then children have nothing of them.
    constexpr Gva kNowhere = ~Gva{0};
    for (PinnedPage& p : moved) p.at = kNowhere;
    std::ranges::sort(moved, {}, &PinnedPage::frame);
    table->visit(0, config.end, [&](const PageTable::Leaf& l) {
      for (auto p = std::ranges::lower_bound(moved, l.address, {}, &PinnedPage::frame);
           p != moved.end() && p->frame - l.address < l.span(); ++p)
        p->at = l.start + (p->frame - l.address);
    });
    std::erase_if(pages, [](const PinnedPage& p) { return p.at == kNowhere; });
  }
  Result<> done;
  std::ranges::sort(pages, {}, &PinnedPage::at);
  std::size_t copies = 0;
  for (PinnedPage& p : pages) {
    if (done = table->own(p.at, Level::Pte, batch); !done) break;
    if (done = table->split_to(p.at, Level::Pte, batch); !done) break;
    const auto copy = frames->allocate(0, Fill::Overwrite);
    if (!copy) {
      done = fail(copy.error());
      break;
    }
    p.copy = copy->gpa;
    ++copies;
    const PageTable::Leaf leaf = table->find(p.at);
    p.table = leaf.table;
    p.attributes = leaf.attributes;
  }
  // What copy_root() and keep_pinned_locked() will need: a root, and the tables on the way to all pages.
  std::uint64_t needed = 1;
  for (std::size_t i = 0; i < pages.size(); ++i) {
    for (const Level level : {Level::Pmd, Level::Pud, Level::Pgd}) {
      const std::uint64_t span = arch::span_of(level);
      needed += i == 0 || pages[i].at / span != pages[i - 1].at / span;
    }
  }
  if (done) done = tables->reserve(needed);
  if (done) return pages;
  for (std::size_t i = 0; i < copies; ++i) frames->free(pages[i].copy, 1);
  return fail(done.error());
}

// The tree is shared by now, and nobody writes: the layer's tables get the copies, ours keep the frames.
void AddressSpace::Impl::keep_pinned_locked(const std::vector<PinnedPage>& pages, FlushBatch& batch) {
  for (const PinnedPage& p : pages) {
    // Unguarded, as above: pins of other memory are not counted.
    std::memcpy(memory.data().at(p.copy), memory.data().at(p.frame), kPageSize);
    counters.pages_copied_pinned.add();
  }
  for (const PinnedPage& p : pages) {
    if (!table->own(p.at, Level::Pte, batch)) std::abort();  // pinned_pages_locked() has reserved the tables
    table->update(p.at, p.at + kPageSize, [&](const PageTable::Leaf& leaf) {
      return PageTable::Change{leaf.state, p.attributes};
    }, batch);
  }
  batch.commit();  // before: a vCPU that still walked in the layer's tables would read the copy, the device writes the page
  for (const PinnedPage& p : pages) {
    table->substitute(p.table, p.at, p.copy);
    frames->free(p.copy, 1);  // it is the layer's from now on
  }
}

}  // namespace ramet::mm
