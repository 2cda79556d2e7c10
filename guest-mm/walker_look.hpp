// The walker's members that only read entries. Included by walker_x86_64.cpp and walker_arm64.cpp alone.
#pragma once

#include "guest-mm/walker.hpp"

namespace ramet::mm {

template <arch::EntryFormat F>
PageTable::Leaf Walker<F>::find(Gva va) const {
  const WayEnd end = descend(root_, va);
  Leaf leaf = leaf_of(end.slot, end.entry);
  if (end.below_shared) {
    leaf.table_shared = true;
    leaf.attributes.write = false;
    leaf.hidden = F::kSharedHidden;
  }
  return leaf;
}

template <arch::EntryFormat F>
Extent Walker<F>::extent_of(const Leaf& leaf, Gva va, std::uint64_t reach) const {
  const std::uint64_t span = leaf.span(), whole = span * arch::kEntriesPerTable;
  const Gva lowest = std::max(align_down(leaf.start, whole), va > reach ? align_down(va - reach, span) : 0);
  const Gva highest = std::min(align_down(leaf.start, whole) + (whole - span), align_down(va + reach, span));
  const auto goes_on = [&](Gva at) {
    const Slot slot{leaf.table, leaf.level, at};
    const Entry e = load(slot);
    if (!F::present(e) || !F::is_leaf(e, leaf.level)) return false;
    const Attributes a = leaf.attributes, b = F::attributes(e);
    return F::address(e, leaf.level) - leaf.address == at - leaf.start && a.write == (b.write && !leaf.table_shared) &&
           a.execute == b.execute && a.user == b.user && a.dirty == b.dirty;
  };
  Gva start = leaf.start, end = leaf.end();
  while (start > lowest && goes_on(start - span)) start -= span;
  while (end <= highest && goes_on(end)) end += span;
  return {start, leaf.address - (leaf.start - start), (end - start) >> kPageShift};
}

template <arch::EntryFormat F>
void Walker<F>::visit(Gva start, Gva end, const std::function<void(const Leaf&)>& see) const {
  walk<Walking::Look>(
      root(), Level::Pgd, start, end - 1, [&](const Slot& slot, Entry e) { see(leaf_of(slot, e)); },
      [](const Slot&, Gpa) {});
}

template <arch::EntryFormat F>
unsigned Walker<F>::entries(Gpa table) const {
  if (tables_.contains(table)) return tables_.info(table).entries.load(std::memory_order_relaxed);
  unsigned n = 0;
  for (unsigned i = 0; i < arch::kEntriesPerTable; ++i)
    n += load(Slot{table, Level::Pte, i * kPageSize}) != arch::kNone;
  return n;
}

template <arch::EntryFormat F>
std::optional<Gpa> Walker<F>::table_at(Gva va, Level target) const {
  Gpa table = root();
  for (Level level = Level::Pgd; level > target; level = below(level)) {
    const Entry e = load(slot_in(table, level, va));
    if (!is_table(e, level)) return std::nullopt;
    table = F::address(e, level);
  }
  return table;
}

template <arch::EntryFormat F>
unsigned Walker<F>::absent(Gpa table, Level level, Gva start, Gva end, std::span<Range> out) const {
  const std::uint64_t span = arch::span_of(level);
  unsigned n = 0;
  for (Gva at = start; at < end && n < out.size(); at += span) {
    Gva stop = at;
    while (stop < end && load(slot_in(table, level, stop)) == arch::kNone) stop += span;
    if (stop > at) out[n++] = {at, stop};
    at = stop;
  }
  return n;
}

template <arch::EntryFormat F>
std::optional<Gpa> Walker<F>::place_for(Gpa table, Level level, Gva at) const {
  const std::uint64_t span = arch::span_of(level), whole = span * arch::kEntriesPerTable;
  const Gva first = align_down(at, whole);
  for (const Gva beside : {at - span, at + span}) {
    if (align_down(beside, whole) != first) continue;
    const Entry e = load(slot_in(table, level, beside));
    if (!F::present(e) || !F::is_leaf(e, level)) continue;
    const Gpa base = F::address(e, level) - (beside - first);
    if (is_aligned(base, whole)) return base + (at - first);
  }
  return std::nullopt;
}

}  // namespace ramet::mm
