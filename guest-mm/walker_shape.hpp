// The walker's members that change the shape of the tree: leaves split into tables, tables merged into leaves, entries
// and whole tables moved elsewhere. Included by walker_x86_64.cpp and walker_arm64.cpp alone.
#pragma once

#include "guest-mm/walker.hpp"

namespace ramet::mm {

template <arch::EntryFormat F>
Result<Gpa> Walker<F>::prepare(Gva va, Level target, FlushBatch& batch) {
  Gpa table = root();
  for (Level level = Level::Pgd; level > target; level = below(level)) {
    const Slot slot = slot_in(table, level, va);
    Entry e = load(slot);
    if (e == arch::kNone) {
      const auto fresh = take_table();
      if (!fresh) return fail(fresh.error());
      TableLock lock(tables_.info(table));
      // Absent to present: no processor can hold anything about it, hence no batch.
      if (write(slot, e, F::table(*fresh), nullptr)) {
        table = *fresh;
        continue;
      }
      tables_.free(*fresh);  // a fault without the address-space lock put a table there, or a larger leaf
    }
    if (!is_table(e, level)) return fail(Error::Invalid);
    const auto own = unshare_child(slot, e, batch);
    if (!own) return fail(own.error());
    table = *own;
  }
  F::publish();
  return table;
}

// Takes the table below `parent` out of the tree if it has no entries.
template <arch::EntryFormat F>
void Walker<F>::drop_if_empty(const Slot& parent, Gpa table, FlushBatch& batch) {
  batch.reserve(1);
  {
    TableInfo& info = tables_.info(table);
    TableLock lock(info);
    if (info.entries.load(std::memory_order_relaxed) != 0) return;
    info.dead = true;
  }
  TableLock lock(tables_.info(parent.table));
  replace(parent, arch::kNone, &batch);
  batch.release_table(table);
}

template <arch::EntryFormat F>
PageTable::Merged Walker<F>::merge(Gva va, Level level, FlushBatch& batch) {
  if (level >= Level::Pud || !F::leaf_allowed(above(level))) return Merged::NotUniform;
  const auto parent_table = table_at(va, above(level));
  if (!parent_table || !writable(*parent_table)) return Merged::NotUniform;
  const Slot parent = slot_in(*parent_table, above(level), va);
  TableLock parent_lock(tables_.info(parent.table));
  const Entry link = load(parent);
  if (!is_table(link, parent.level) || is_shared(link)) return Merged::NotUniform;
  const Gpa table = F::address(link, parent.level);
  if (!writable(table)) return Merged::NotUniform;
  TableInfo& info = tables_.info(table);
  TableLock lock(info);
  if (!is_uniform(info)) return Merged::NotUniform;
  const Entry first = load(slot_in(table, level, parent.start));
  const Gpa gpa = F::address(first, level);
  if (!is_aligned(gpa, arch::span_of(parent.level))) return Merged::Misaligned;
  // Processors may still use the small entries and set accessed and dirty bits there, so the leaf has these bits
  // already.
  Attributes attributes = F::attributes(first);
  attributes.accessed = true;
  attributes.ahead = false;
  attributes.dirty = attributes.write;
  for (unsigned i = 0; i < arch::kEntriesPerTable && !attributes.dirty; ++i) {
    attributes.dirty = F::attributes(load(slot_in(table, level, parent.start + i * arch::span_of(level)))).dirty;
  }
  batch.reserve(1);
  info.dead = true;
  count_leaf(level, first, -static_cast<int>(arch::kEntriesPerTable));
  replace(parent, F::leaf(gpa, parent.level, attributes), &batch, true);
  F::publish();
  batch.merged(table, parent.table);
  counters_.merged(parent.level).add();
  return Merged::Done;
}

template <arch::EntryFormat F>
Result<> Walker<F>::move(Gva from, Gva to, std::uint64_t length, FlushBatch& batch) {
  const bool same_offset = is_aligned(from - to, kBlockSize);
  // unmap() removes empty tables at the destination, so that whole tables can move there. It would drop a shared table
  // with its entries outside the range, so tables across the ends are unshared first.
  if (auto ends = unshare_ends(to, to + length, batch); !ends) return ends;
  unmap(to, to + length, batch);
  pass_faults(from, from + length);
  // First everything that can fail: blocks that cannot stay blocks, tables at the destination.
  if (auto ready = prepare_move(from, to, length, same_offset, batch); !ready) {
    unmap(to, to + length, batch);  // the tables that were made; nothing is mapped there
    return ready;
  }
  const Gva end = from + length;
  for (Gva va = from; va < end;) {
    const Slot slot = slot_of_leaf(va);
    if (load(slot) == arch::kNone && slot.level > Level::Pte) {
      va = next_of(slot);
      continue;
    }
    if (same_offset && is_aligned(va, kBlockSize) && end - va >= kBlockSize) {
      // The PMD slot's block or table moves as a whole, except for a table without entries, for which no place was
      // prepared.
      const Slot whole = slot_in(*table_at(va, Level::Pmd), Level::Pmd, va);
      const Entry e = load(whole);
      if (!is_table(e, Level::Pmd) || entries(F::address(e, Level::Pmd)) > 0) {
        move_entry(whole, to + (va - from), batch);
      }
      va += kBlockSize;
      continue;
    }
    if (load(slot) != arch::kNone) move_entry(slot, to + (va - from), batch);
    va = next_of(slot);
  }
  // Removes tables that are empty now; the range holds no leaf any more.
  unmap(from, end, batch);
  return {};
}

template <arch::EntryFormat F>
Result<> Walker<F>::split_leaf(const Slot& slot, FlushBatch& batch) {
  batch.reserve(1);
  const auto table = take_table();
  if (!table) return fail(table.error());
  const Level smaller = below(slot.level);
  TableLock lock(tables_.info(slot.table));
  Entry e = load(slot);
  do {  // again if the hardware has set a bit meanwhile
    write_parts(*table, smaller, leaf_of(slot, e));
    F::publish();
  } while (!write(slot, e, F::table(*table), &batch));
  count_leaf(smaller, load(slot_in(*table, smaller, slot.start)), static_cast<int>(arch::kEntriesPerTable));
  F::publish();
  counters_.split(slot.level).add();
  return {};
}

// Stores every entry of a table that is not reachable yet, so that write() and its counts are not needed for each.
template <arch::EntryFormat F>
void Walker<F>::write_parts(Gpa table, Level level, const Leaf& whole) {
  const bool kept = whole.state == State::Kept;
  for (unsigned i = 0; i < arch::kEntriesPerTable; ++i) {
    const std::uint64_t step = i * arch::span_of(level);
    const Entry part = F::leaf(whole.address + step, level, whole.attributes);
    store(slot_in(table, level, whole.start + step), kept ? arch::kept(part) : part);
  }
  TableInfo& info = tables_.info(table);
  info.entries.store(arch::kEntriesPerTable, std::memory_order_relaxed);
  info.continuing.store(kept ? 0 : arch::kEntriesPerTable - 1, std::memory_order_relaxed);
}

template <arch::EntryFormat F>
Result<> Walker<F>::prepare_move(Gva from, Gva to, std::uint64_t length, bool same_offset, FlushBatch& batch) {
  const Gva end = from + length;
  for (Gva va = from; va < end;) {
    const Slot slot = slot_of_leaf(va);
    const Entry e = load(slot);
    if (e == arch::kNone) {
      va = next_of(slot);
      continue;
    }
    if (slot.level == Level::Pud || (slot.level == Level::Pmd && !same_offset)) {
      if (auto done = split_leaf(slot, batch); !done) return done;
      continue;
    }
    const Gva block = align_down(va, kBlockSize);
    const bool whole = same_offset && block >= from && end - block >= kBlockSize;
    if (auto ready = unshare(va, whole ? Level::Pmd : Level::Pte, batch); !ready) return ready;
    if (auto ready = prepare(to + (va - from), whole ? Level::Pmd : Level::Pte, batch); !ready)
      return fail(ready.error());
    // With the same offset, the destination's table covers the rest of the block as well.
    va = same_offset ? block + kBlockSize : next_of(slot);
  }
  return {};
}

template <arch::EntryFormat F>
void Walker<F>::move_entry(const Slot& slot, Gva to, FlushBatch& batch) {
  Entry e;
  {
    TableLock lock(tables_.info(slot.table));
    e = replace(slot, arch::kNone, &batch);
  }
  if (e == arch::kNone) return;
  const Gpa table = *table_at(to, slot.level);
  TableLock lock(tables_.info(table));
  replace(slot_in(table, slot.level, to), e, &batch, true);
}

}  // namespace ramet::mm
