// The walker's members that read the whole tree: the dump, and the audit that recounts what write() has counted.
// Included by walker_x86_64.cpp and walker_arm64.cpp alone.
#pragma once

#include "guest-mm/walker.hpp"

namespace ramet::mm {

template <arch::EntryFormat F>
void Walker<F>::dump_table(Gpa table, Level level, Gva start, const std::function<void(const Node&)>& see) const {
  Leaf own;
  own.start = start, own.level = level, own.state = State::Present, own.address = table,
  own.table_shared = !writable(table);
  see({.leaf = own, .table = true, .entries = entries(table)});
  for (unsigned i = 0; i < arch::kEntriesPerTable; ++i) {
    const Slot slot{table, level, start + i * arch::span_of(level)};
    const Entry e = load(slot);
    if (is_table(e, level)) dump_table(F::address(e, level), below(level), slot.start, see);
    else if (e != arch::kNone) see({.leaf = leaf_of(slot, e), .table = false, .entries = 0});
  }
}

template <arch::EntryFormat F>
void Walker<F>::audit_table(Gpa table, Level level, Census& seen, std::string& wrong) const {
  unsigned used = 0;
  for (unsigned i = 0; i < arch::kEntriesPerTable; ++i) {
    const Slot slot{table, level, i * arch::span_of(level)};
    const Entry e = load(slot);
    if (e == arch::kNone) continue;
    ++used;
    if (is_table(e, level)) {
      const Gpa below_here = F::address(e, level);
      if (!tables_.contains(below_here) && !memory_.inherited_table(below_here))
        wrong = "a table lies outside the table bank";
      else audit_table(F::address(e, level), below(level), seen, wrong);
    } else {
      if (const auto* total = const_cast<Walker*>(this)->total_for(level, e)) {
        if (total == &shared_pages_) seen.shared_pages += arch::span_of(level) >> kPageShift;
        else if (total == &inherited_pages_) seen.inherited_pages += arch::span_of(level) >> kPageShift;
        else ++(total == &pages_ ? seen.pages : total == &blocks_ ? seen.blocks : seen.giants);
      }
      const Attributes a = leaf_of(slot, e).attributes;
      if (a.write && a.execute) wrong = "an entry is writable and executable";
      if (e == arch::kChanging) wrong = "an entry stayed marked as changing";
    }
  }
  if (!tables_.contains(table)) return;
  const TableInfo& info = tables_.info(table);
  const Slot first{table, level, 0};
  if (used != info.entries.load(std::memory_order_relaxed))
    wrong = "a table's count of entries differs from its entries";
  if (info.continuing.load(std::memory_order_relaxed) != count_continuing(first, load(first)))
    wrong = "a table's count of continuing entries differs from its entries";
  if (info.dead || info.lock.is_locked()) wrong = "a table in the tree is dead or locked";
}

template <arch::EntryFormat F>
std::string Walker<F>::audit() const {
  Census seen;
  std::string wrong;
  audit_table(root(), Level::Pgd, seen, wrong);
  if (wrong.empty() && seen != census()) wrong = "the census of mapped frames differs from the page table";
  return wrong;
}

}  // namespace ramet::mm
