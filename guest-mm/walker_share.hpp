// The walker's members for tables that several address spaces share: before something below a shared table changes, the
// table is copied, from the root down. Included by walker_x86_64.cpp and walker_arm64.cpp alone.
#pragma once

#include <exception>
#include <new>

#include "guest-mm/walker.hpp"

namespace ramet::mm {

// The entry of a space that inherits `e`, without permission to write. With `share`, a table that it leads to is a
// shared table. The entries of a table mostly differ by their frames only: `last` keeps the result for the entry
// before.
template <arch::EntryFormat F>
arch::Entry Walker<F>::inherited(Entry e, Level level, bool share, Withheld& last) const {
  if (is_table(e, level)) return share ? F::shared_table(F::address(e, level)) : e;
  if (e == arch::kNone) return e;
  // With the accessed bit, whether it was set or not: until they are flushed, processors may use the entry of the
  // shared table, and would set the bit there. In the copy, an entry without the bit would be changed without a flush.
  e = F::accessed(e);
  const bool kept = arch::is_kept(e);
  const Entry live = kept ? arch::restored(e) : e;
  const Gpa frame = F::address(live, level);
  if (live - frame != last.from) {
    if (F::stable(live) == F::stable_read_only(live)) return e;
    Attributes a = F::attributes(live);
    if (!a.user) return e;  // ring 0's own
    a.write = false;
    last = {.from = live - frame, .to = F::with(live, a) - frame};
  }
  // An object's pages (MAP_SHARED) stay writable, and so does a frame that is not in a layer.
  if (!(is_private(frame) || memory_.inherited(frame)) || frames_.exclusive(frame)) return e;
  return kept ? arch::kept(last.to + frame) : last.to + frame;
}

template <arch::EntryFormat F>
void Walker<F>::copy_shared(Gpa to, Gpa from, Level level, bool share) {
  auto* const source = reinterpret_cast<Entry*>(tables_.host(from));
  auto* const copy = reinterpret_cast<Entry*>(tables_.host(to));  // zeroes, and not reachable yet
  const Slot slot{to, level, 0};
  TableInfo& info = tables_.info(to);
  Withheld last;
  unsigned used = 0;
  for (unsigned i = 0; i < arch::kEntriesPerTable; ++i) {
    const Entry e = std::atomic_ref(source[i]).load(std::memory_order_acquire);
    if (e == arch::kNone) continue;
    ++used;
    std::atomic_ref(copy[i]).store(inherited(e, level, share, last), std::memory_order_release);
  }
  info.entries.store(static_cast<std::uint16_t>(used), std::memory_order_relaxed);
  info.continuing.store(static_cast<std::uint16_t>(count_continuing(slot, load(slot))), std::memory_order_relaxed);
}

// Releases a shared table that has left the tree. A table of this space's bank is marked dead: once its other users
// have gone it counts as writable again (TablePool::thaw()), and a fault that found it before could publish into it,
// outside the tree. Tables of other banks are never writable here.
template <arch::EntryFormat F>
void Walker<F>::leave(Gpa table, FlushBatch& batch) {
  if (!tables_.contains(table)) return;
  batch.reserve(1);
  {
    TableLock lock(tables_.info(table));
    tables_.info(table).dead = true;
  }
  batch.release_table(table);
}

// Makes the entry lead to a writable table: the same one, or a copy. Returns it.
template <arch::EntryFormat F>
Result<Gpa> Walker<F>::unshare_child(const Slot& slot, Entry e, FlushBatch& batch) {
  const Gpa child = F::address(e, slot.level);
  if (writable(child)) {
    if (!is_shared(e)) return child;
    // The layer for which the table was sealed has gone. Frames that its entries allow to be written are at
    // least as new as the table, so the layers for which they were sealed have gone, too (SpaceCore::thaw_locked()
    // thaws tables first).
    TableLock lock(tables_.info(slot.table));
    replace(slot, F::table(child), &batch);
    F::publish();
    return child;
  }
  batch.reserve(2);
  const auto copy = take_table();
  if (!copy) return copy;
  // Tables below ring 0's are not marked as shared: no frozen memory uses them, though they may lie in a sealed part of
  // the bank.
  const bool ring0 = slot.start >> 47;
  copy_shared(*copy, child, below(slot.level), !ring0);
  F::publish();
  {
    TableLock lock(tables_.info(slot.table));
    replace(slot, F::table(*copy), &batch);
  }
  F::publish();
  counters_.tables_unshared.add();
  leave(child, batch);
  return copy;
}

template <arch::EntryFormat F>
Result<> Walker<F>::unshare(Gva va, Level target, FlushBatch& batch) {
  Gpa table = root();
  for (Level level = Level::Pgd; level > target; level = below(level)) {
    const Slot slot = slot_in(table, level, va);
    const Entry e = load(slot);
    if (!is_table(e, level)) return {};
    const auto child = unshare_child(slot, e, batch);
    if (!child) return fail(child.error());
    table = *child;
  }
  return {};
}

template <arch::EntryFormat F>
Result<> Walker<F>::unshare_towards(Gva boundary, FlushBatch& batch) {
  Gpa table = root();
  for (Level level = Level::Pgd; level > Level::Pte; level = below(level)) {
    const Slot slot = slot_in(table, level, boundary);
    const Entry e = load(slot);
    if (slot.start == boundary || !is_table(e, level)) return {};
    const auto child = unshare_child(slot, e, batch);
    if (!child) return fail(child.error());
    table = *child;
  }
  return {};
}

template <arch::EntryFormat F>
Result<> Walker<F>::unshare_ends(Gva start, Gva end, FlushBatch& batch) {
  if (auto done = unshare_towards(start, batch); !done) return done;
  return unshare_towards(end, batch);
}

template <arch::EntryFormat F>
Result<> Walker<F>::unshare_range(Gva start, Gva end, FlushBatch& batch) {
  for (Gva va = start; va < end;) {
    if (auto done = unshare(va, Level::Pte, batch); !done) return done;
    const Leaf leaf = find(va);
    va = leaf.level == Level::Pte ? align_down(va, kBlockSize) + kBlockSize : leaf.end();
  }
  return {};
}

template <arch::EntryFormat F>
Result<Gpa> Walker<F>::copy_root(Gva end) {
  const auto copy = take_table();
  if (!copy) return copy;
  for (unsigned i = 0; i <= arch::index_of(Level::Pgd, end - 1); ++i) {
    const Slot slot = slot_in(root_, Level::Pgd, i * arch::span_of(Level::Pgd));
    store({*copy, slot.level, slot.start}, load(slot));
  }
  return copy;
}

template <arch::EntryFormat F>
void Walker<F>::share_root(Gva end, FlushBatch& batch) {
  TableLock lock(tables_.info(root_));
  for (unsigned i = 0; i <= arch::index_of(Level::Pgd, end - 1); ++i) {
    const Slot slot = slot_in(root_, Level::Pgd, i * arch::span_of(Level::Pgd));
    const Entry e = load(slot);
    if (is_table(e, Level::Pgd) && !is_shared(e)) replace(slot, F::shared_table(F::address(e, Level::Pgd)), &batch);
  }
  F::publish();
}

template <arch::EntryFormat F>
void Walker<F>::adopt_root(Gpa base, Gva end, const Census& census) {
  const Gpa own = root();
  for (unsigned i = 0; i <= arch::index_of(Level::Pgd, end - 1); ++i) {
    const Slot slot = slot_in(own, Level::Pgd, i * arch::span_of(Level::Pgd));
    Entry old = load(slot);
    const Entry e = load({base, slot.level, slot.start});
    TableLock lock(tables_.info(own));
    write(slot, old, is_table(e, Level::Pgd) ? F::shared_table(F::address(e, Level::Pgd)) : e, nullptr);
  }
  F::publish();
  count_inherited(census);
}

template <arch::EntryFormat F>
void Walker<F>::count_inherited(const Census& census) {
  const std::uint64_t in_blocks = kPagesPerBlock * (census.blocks + census.giants * arch::kEntriesPerTable);
  inherited_pages_.store(census.pages + census.inherited_pages + in_blocks, std::memory_order_relaxed);
  shared_pages_.store(census.shared_pages, std::memory_order_relaxed);
}

template <arch::EntryFormat F>
void Walker<F>::substitute(Gpa table, Gva page, Gpa frame) {
  const Slot slot = slot_in(table, Level::Pte, page);
  const Entry e = load(slot);
  const bool kept = arch::is_kept(e);
  const Entry other = F::leaf(frame, Level::Pte, F::attributes(kept ? arch::restored(e) : e));
  if (executes(other, Level::Pte)) sync(other, Level::Pte);
  store(slot, kept ? arch::kept(other) : other);
  F::publish();
}

// Releases a subtree that has left the tree: its frames and tables of this space's banks go with the batch. Its entries
// stay as they are, because other spaces may still use the tables.
template <arch::EntryFormat F>
void Walker<F>::leave_tree(const Slot& parent, Gpa table, FlushBatch& batch) {
  walk<Walking::Look>(
      table, below(parent.level), parent.start, parent.start + arch::span_of(parent.level) - 1,
      [&](const Slot& slot, Entry e) {
        address_space_lock.assume_held();  // by us, which the walk cannot say
        batch.reserve(1);
        count_leaf(slot.level, e, -1);
        const Leaf leaf = leaf_of(slot, e);
        if (is_private(leaf.address)) batch.release_frames(leaf.address, leaf.span() >> kPageShift);
      },
      [&](const Slot&, Gpa below) {
        address_space_lock.assume_held();  // as above
        leave(below, batch);
      });
  leave(table, batch);
}

// Takes a shared table, and what is below it, out of the tree.
template <arch::EntryFormat F>
void Walker<F>::drop_shared(const Slot& parent, Gpa table, FlushBatch& batch) {
  TableLock lock(tables_.info(parent.table));
  replace(parent, arch::kNone, &batch);
  leave_tree(parent, table, batch);
}

// Makes the entries of `table`, which is writable, equal to those of `base`, the table of frozen memory that it was
// copied from. Entries that differ are absent now and added to `changes`, to be written after a flush. Returns whether
// any differed: then the caller keeps the table, as it will probably be written again; else it shares `base` once more.
template <arch::EntryFormat F>
bool Walker<F>::restore(Gpa table, Gpa base, const Slot& first, unsigned entries, std::vector<Restored>& changes,
                        FlushBatch& batch) {
  const Level level = first.level;
  auto* const mine = reinterpret_cast<Entry*>(tables_.host(table));
  auto* const theirs = reinterpret_cast<Entry*>(tables_.host(base));
  bool changed = false;
  Withheld last;
  TableLock lock(tables_.info(table));
  for (unsigned i = 0; i < entries; ++i) {
    const Entry now = std::atomic_ref(mine[i]).load(std::memory_order_acquire);
    const Entry source = std::atomic_ref(theirs[i]).load(std::memory_order_acquire);
    if (now == arch::kNone && source == arch::kNone) continue;
    const bool present = F::present(now);
    // Most entries differ from their source by write permission alone; that is seen without looking up the frame's
    // bank.
    if (level == Level::Pte && present && F::present(source) && F::stable(now) == F::stable_read_only(source)) continue;
    const auto as = [&](Entry e) { return now == e || (present && F::present(e) && F::stable(now) == F::stable(e)); };
    const Entry then = inherited(source, level, true, last);
    if (as(then)) continue;
    const Slot slot{table, level, first.start + i * arch::span_of(level)};
    batch.reserve(1);
    if (changes.size() == changes.capacity()) changes.reserve(2 * changes.size() + 64);
    if (is_table(now, level)) {
      const Gpa child = F::address(now, level);
      if (is_table(then, level) && writable(child) && !is_shared(now)) {
        const Slot inside{child, below(level), slot.start};
        if (restore(child, F::address(then, level), inside, arch::kEntriesPerTable, changes, batch)) {
          changed = true;
          continue;
        }
        leave(child, batch);
      } else {
        leave_tree(slot, child, batch);
        changed = true;
      }
    } else {
      if (now != arch::kNone) {
        const Leaf leaf = leaf_of(slot, now);
        if (is_private(leaf.address)) batch.release_frames(leaf.address, leaf.span() >> kPageShift);
      }
      changed = true;
    }
    replace(slot, arch::kChanging, &batch);
    changes.push_back({slot, then});
  }
  return changed;
}

template <arch::EntryFormat F>
void Walker<F>::restore_root(Gpa base, Gva end, const Census& census, FlushBatch& batch) {
  std::vector<Restored> changes;
  std::exception_ptr failed;
  try {
    restore(root_, base, {root_, Level::Pgd, 0}, arch::index_of(Level::Pgd, end - 1) + 1, changes, batch);
  } catch (const std::bad_alloc&) {  // the changes made so far are finished below, so that no entry stays absent
    failed = std::current_exception();
  }
  F::publish();
  batch.flush();  // the entries that change are absent in between
  for (const Restored& r : changes) {
    TableLock lock(tables_.info(r.slot.table));
    replace(r.slot, r.entry, nullptr);
  }
  F::publish();
  if (failed) std::rethrow_exception(failed);
  pages_.store(0, std::memory_order_relaxed);
  blocks_.store(0, std::memory_order_relaxed);
  giants_.store(0, std::memory_order_relaxed);
  count_inherited(census);
}

}  // namespace ramet::mm
