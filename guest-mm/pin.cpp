// Pins (Xu, "mm: Break COW for pinned pages during fork()", 2020): at a freeze the VM keeps a pinned frame where it is
// mapped, with its permission, and children get a copy of what it holds then (freeze_pins.cpp). That holds for read
// pins as well, and for pages that mprotect made read-only: a frame is pinned, not a permission.
#include "guest-mm/pin.hpp"

#include <algorithm>
#include <cstring>

#include "guest-mm/address_space_impl.hpp"
#include "guest-mm/rcu.hpp"

namespace ramet::mm {

using State = PageTable::State;
using Level = PageTable::Level;

// Without a lock, as get_user_pages_fast(): takes the pin, then checks that the entry and the frame are as before. Read
// pins need a writable entry, too: one that is not may be about to be replaced by a copy on write that began when the
// frame was still part of a layer.
std::optional<PinHold> Pinning::fast(Gva page, Access access) {
  rcu::Reader reader;
  const std::uint32_t sequence = freezing_.read();
  if (SequenceCount::changing(sequence)) return std::nullopt;
  const Region* region = core_.regions.find(page);
  if (!region || region->shared || !permits(region->prot, access)) return std::nullopt;
  const auto exclusive = [&]() -> std::optional<Gpa> {
    const PageTable::Leaf leaf = core_.table->find(page);
    if (leaf.state != State::Present || leaf.table_shared || !EntryRules::allows(leaf, Access::Write))
      return std::nullopt;
    const Gpa frame = leaf.address + (page - leaf.start);
    return core_.frames->exclusive(frame) ? std::optional(frame) : std::nullopt;
  };
  const auto frame = exclusive();
  if (!frame) return std::nullopt;
  PinHold hold = core_.pins->hold(*frame, page, 1);
  std::atomic_thread_fence(std::memory_order_seq_cst);  // pairs with Layers::freeze() and reset(), and with migration
  if (exclusive() == frame && freezing_.unchanged(sequence)) return hold;
  return std::nullopt;
}

Result<PageTable::Leaf> Pinning::exclusive_locked(Gva page, Access access, FlushBatch& batch) {
  for (;;) {
    const Region* before = core_.regions.find(page);
    // As in fast(), a writable entry is wanted; in a region that does not permit writing, no fault copies.
    const bool copies = before && !before->shared && has(before->prot, Prot::Write);
    const auto leaf = user_.touch_locked(page, copies ? Access::Write : access, batch);
    if (!leaf) return leaf;
    const Region* region = core_.regions.find(page);  // a fault may have grown it
    if (rules_.may_write(*region, *leaf) || core_.pins->pinned(leaf->address + (page - leaf->start))) return leaf;
    // Also for a device that only reads: it must see what the guest writes later.
    if (leaf->table_shared) {
      core_.thaw_locked();
      if (auto done = core_.table->unshare(page, leaf->level, batch); !done) return fail(done.error());
    } else if (auto copied = copies_.copy_locked(*region, page, batch); !copied) {
      return fail(copied.error());
    }
  }
}

bool Pinning::movable_locked(Gva page, const PageTable::Leaf& leaf) const {
  const Region* region = core_.regions.find(page);
  const Gpa frame = leaf.address + (page - leaf.start);
  return region && !region->shared && !region->flips() && core_.memory.data().contains(frame) &&
         !core_.frames->apart(frame) && !core_.pins->pinned(frame);
}

// The first step of moving a range to the pin bank: afterwards no processor writes the pages that move, and no pin is
// taken on them without the lock. False: no page moves.
Result<bool> Pinning::close_to_writes_locked(Gva start, Gva end, Access access, FlushBatch& batch) {
  bool any = false;
  for (Gva page = start; page < end; page += kPageSize) {
    const auto leaf = exclusive_locked(page, access, batch);
    if (!leaf) return fail(leaf.error());
    if (!movable_locked(page, *leaf)) continue;
    any = true;
    if (auto split = core_.table->split_to(page, Level::Pte, batch); !split) return fail(split.error());
    core_.table->update(
        page, page + kPageSize,
        [](const PageTable::Leaf& old) {
          auto read_only = old.attributes;
          read_only.write = false;
          return PageTable::Change{old.state, read_only};
        },
        batch);
  }
  if (!any) return false;
  batch.commit();
  std::atomic_thread_fence(std::memory_order_seq_cst);  // pairs with fast(), which wants a writable entry
  return true;
}

// The second step: the pages that are still closed to writes are copied and replaced, all of them or none.
Result<> Pinning::move_closed_locked(Gva start, Gva end, FlushBatch& batch) {
  std::vector<PageTable::Replacement> moves;
  Result<> done;
  for (Gva page = start; page < end && done; page += kPageSize) {
    if (!movable_locked(page, core_.table->find(page))) continue;
    // The commit in close_to_writes_locked() may have merged the table into a block.
    if (done = core_.table->split_to(page, Level::Pte, batch); !done) break;
    const PageTable::Leaf leaf = core_.table->find(page);
    if (leaf.state != State::Present || leaf.attributes.write) continue;
    if (const auto to = core_.frames->allocate_apart()) {
      // Unguarded: both frames are of the private bank, which is never unmapped.
      std::memcpy(core_.memory.data().at(*to), core_.memory.data().at(leaf.address), kPageSize);
      moves.push_back({leaf, *to, rules_.attributes(*core_.regions.find(page), Access::Write)});
    } else {
      done = fail(to.error());
    }
  }
  const bool moved = done && !moves.empty() &&
                     core_.table->replace_leaves(moves, {}, batch) == PageTable::Published::Done;
  for (const auto& m : moves) {
    if (moved) core_.counters.pages_moved_pinned.add();
    else core_.frames->free(m.frame, 1);
  }
  batch.commit();
  return done;
}

// The pages of a long-term pin go to the pin bank first: what its device writes is then out of reach even for a child
// that broke out of its page tables. They are closed to the guest's writes, copied and replaced, as by copy on write.
// Pages that are pinned already stay where they are, and so do pages that flip between writable and executable.
Result<> Pinning::move_apart_locked(Gva start, Gva end, Access access, FlushBatch& batch) {
  constexpr unsigned kRounds = 8;  // after these, pages that the guest keeps writing stay where they are
  for (unsigned round = 0; round < kRounds; ++round) {
    const auto closed = close_to_writes_locked(start, end, access, batch);
    if (!closed) return fail(closed.error());
    if (!*closed) return {};
    if (auto moved = move_closed_locked(start, end, batch); !moved) return moved;
  }
  return {};
}

PinHold Pinning::hold_locked(Gpa first, Gva at, std::uint64_t bytes) {
  if (!core_.config.pinned_cow) return {};
  const Gpa from = align_down(first, kPageSize);
  const std::uint64_t pages = (align_up(first + bytes, kPageSize) - from) >> kPageShift;
  return core_.pins->hold(from, align_down(at, kPageSize), static_cast<std::uint32_t>(pages));
}

bool Pin::add(Gva at, Gpa frame, std::uint64_t bytes, std::shared_ptr<Bank> keep, PinHold hold) {
  const HostBytes host(keep->from(frame).subspan(at & (kPageSize - 1), bytes));
  HostRange range{host, std::move(keep), std::move(hold)};
  if (ranges_.empty() || !ranges_.back().join(range)) {
    if (!charge_.room_for_one(ranges_)) return false;
    ranges_.push_back(std::move(range));
  }
  bytes_ += bytes;
  return true;
}

void Pin::drop_last() {
  bytes_ -= ranges_.back().bytes.size();
  ranges_.pop_back();
}

Result<> Pinning::move_all_apart(Gva start, Gva end, Access access) {
  constexpr std::uint64_t kPiece = 64 * kPageSize;  // of one table
  while (start < end) {
    const Gva stop = std::min(end, align_down(start, kPiece) + kPiece);
    FlushBatch batch = core_.locked();
    const auto moved = move_apart_locked(start, stop, access, batch);
    batch.commit();
    if (!moved) return moved;
    start = stop;
  }
  return {};
}

Result<> Pinning::pin_page(Gva at, std::uint64_t bytes, Access access, Pin& pin) {
  const Gva page = align_down(at, kPageSize);
  if (auto hold = fast(page, access)) {
    const Gpa frame = hold->first();
    if (!core_.config.pinned_cow) hold = PinHold();
    return pin.add(at, frame, bytes, core_.memory.bank_of(frame), std::move(*hold)) ? Result<>()
                                                                                    : fail(Error::NoMemory);
  }
  FlushBatch batch = core_.locked();
  const auto leaf = exclusive_locked(page, access, batch);
  if (!leaf) return fail(leaf.error());
  const Gpa frame = leaf->address + (page - leaf->start);
  auto keep = core_.memory.bank_of(frame);
  if (!keep) return fail(Error::BeyondEnd);
  if (!pin.add(at, frame, bytes, std::move(keep), hold_locked(frame, page, kPageSize))) return fail(Error::NoMemory);
  return {};
}

Result<Pin> AddressSpace::pin(Gva address, std::uint64_t length, Access access, PinTerm term, std::size_t most) {
  Impl& m = *impl_;
  address = m.core.untagged(address);
  if (length == 0 || address > m.core.config.end || length > m.core.config.end - address) return fail(Error::NotMapped);
  if (term == PinTerm::Long && m.core.config.pinned_cow) {
    const Gva first = align_down(address, kPageSize), last = align_up(address + length, kPageSize);
    if (auto moved = m.pinning.move_all_apart(first, last, access); !moved) return fail(moved.error());
  }
  Pin pin(account());
  for (Gva at = address; at < address + length && pin.ranges().size() <= most;) {
    const std::uint64_t bytes = std::min(align_down(at, kPageSize) + kPageSize, address + length) - at;
    if (auto pinned = m.pinning.pin_page(at, bytes, access, pin); !pinned) return fail(pinned.error());
    at += bytes;
  }
  if (pin.ranges().size() > most) pin.drop_last();
  return pin;
}

}  // namespace ramet::mm
