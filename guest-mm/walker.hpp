// The page-table walker, over any entry format.
//
//      47      39 38      30 29      21 20      12 11        0
//      [  PGD    |   PUD    |   PMD    |   PTE    |  offset   ]
//   root -> slot -> slot ----> slot ----> slot ----> frame
//                   leaf 1G    leaf 2M    leaf 4K
//
// Two functions matter: walk() is the only one that goes through tables, write() is the only one that
// changes an entry. Everything the books say about tables (entries in use, frames by size, what to flush)
// is kept by write(), so it cannot be forgotten elsewhere.
#pragma once

#include <algorithm>
#include <atomic>
#include <optional>
#include <string>

#include "guest-mm/bank.hpp"
#include "guest-mm/page_table.hpp"

namespace ramet::mm {

template <arch::EntryFormat F>
class Walker final : public PageTable {
 public:
  using Entry = arch::Entry;

  Walker(const Memory& memory, TablePool& tables, Counters& counters, Gpa root)
      : memory_(memory), tables_(tables), counters_(counters), root_(root) {}

  Gpa root() const override { return root_; }

  Leaf find(Gva va) const override {
    Gpa table = root_;
    for (Level level = Level::Pgd;; level = below(level)) {
      const Slot slot = slot_in(table, level, va);
      const Entry e = load(slot);
      if (!is_table(e, level)) return leaf_of(slot, e);
      table = F::address(e, level);
    }
  }

  void visit(Gva start, Gva end, const std::function<void(const Leaf&)>& see) const override {
    walk(root_, Level::Pgd, start, end - 1, [&](const Slot& slot, Entry e) { see(leaf_of(slot, e)); },
         [](const Slot&, Gpa) {});
  }

  unsigned entries(Gva va, Level level) const override {
    const auto table = table_at(va, level);
    return table ? tables_.entries(*table) : 0;
  }

  Result<> prepare(Gva va, Level target) override {
    Gpa table = root_;
    for (Level level = Level::Pgd; level > target; level = below(level)) {
      const Slot slot = slot_in(table, level, va);
      const Entry e = load(slot);
      if (is_table(e, level)) {
        table = F::address(e, level);
        continue;
      }
      if (e != arch::kNone) return fail(Error::Invalid);
      const auto fresh = take_table();
      if (!fresh) return fail(fresh.error());
      // Absent to present: no processor can hold anything about it, hence no batch.
      write(slot, F::table(*fresh), nullptr);
      table = *fresh;
    }
    F::publish();
    return {};
  }

  void map(Gva va, Level level, Gpa pa, unsigned count, Attributes attributes, FlushBatch& batch) override {
    const Gpa table = *table_at(va, level);
    for (unsigned i = 0; i < count; ++i) {
      const std::uint64_t step = i * arch::span_of(level);
      write(slot_in(table, level, va + step), F::leaf(pa + step, level, attributes), &batch);
    }
    F::publish();
  }

  Result<> split(Gva boundary, FlushBatch& batch) override {
    // A giant leaf first becomes blocks, then the block with the boundary inside becomes pages.
    for (;;) {
      const Slot slot = slot_of_leaf(boundary);
      const Entry e = load(slot);
      if (e == arch::kNone || is_aligned(boundary, arch::span_of(slot.level))) return {};
      if (auto done = split_leaf(slot, e, batch); !done) return done;
    }
  }

  void unmap(Gva start, Gva end, FlushBatch& batch) override {
    walk(root_, Level::Pgd, start, end - 1,
         [&](const Slot& slot, Entry e) {
           const Leaf leaf = leaf_of(slot, e);
           write(slot, arch::kNone, &batch);
           if (is_private(leaf.address)) batch.release_frames(leaf.address, leaf.span() >> kPageShift);
         },
         [&](const Slot& slot, Gpa table) { drop_if_empty(slot, table, batch); });
    F::publish();
  }

  void update(Gva start, Gva end, const std::function<Change(const Leaf&)>& rule, FlushBatch& batch) override {
    walk(root_, Level::Pgd, start, end - 1,
         [&](const Slot& slot, Entry e) {
           const Change change = rule(leaf_of(slot, e));
           const Entry live = arch::is_kept(e) ? arch::restored(e) : e;
           const Entry next = F::with(live, change.attributes);
           write(slot, change.state == State::Kept ? arch::kept(next) : next, &batch);
         },
         [](const Slot&, Gpa) {});
    F::publish();
  }

  Result<> move(Gva from, Gva to, std::uint64_t length, FlushBatch& batch) override {
    const bool same_offset = is_aligned(from - to, kBlockSize);
    unmap(to, to + length, batch);  // tables without entries could stand where a whole table is to go
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
        // Whatever the PMD slot holds, a block or a table, changes place as a whole; but for a table
        // without entries, for which no place was prepared.
        const Slot whole = slot_in(*table_at(va, Level::Pmd), Level::Pmd, va);
        const Entry e = load(whole);
        if (!is_table(e, Level::Pmd) || tables_.entries(F::address(e, Level::Pmd)) > 0) {
          move_entry(whole, to + (va - from), batch);
        }
        va += kBlockSize;
        continue;
      }
      if (load(slot) != arch::kNone) move_entry(slot, to + (va - from), batch);
      va = next_of(slot);
    }
    // Tables that are empty now go; the range holds no leaf any more.
    unmap(from, end, batch);
    return {};
  }

  std::string audit() const override {
    Census seen;
    std::string wrong;
    audit_table(root_, Level::Pgd, seen, wrong);
    if (wrong.empty() && seen != census_) wrong = "the census of mapped frames differs from the page table";
    return wrong;
  }

 private:
  struct Slot {
    Gpa table;
    Level level;
    Gva start;  // the address the slot is for
  };

  static Level below(Level l) { return Level(unsigned(l) - 1); }
  static bool is_table(Entry e, Level l) { return F::present(e) && !F::is_leaf(e, l); }
  static Slot slot_in(Gpa table, Level level, Gva va) { return {table, level, align_down(va, arch::span_of(level))}; }
  static Gva next_of(const Slot& slot) { return slot.start + arch::span_of(slot.level); }
  bool is_private(Gpa gpa) const { return memory_.data().contains(gpa); }

  std::atomic_ref<Entry> entry(const Slot& slot) const {
    auto* entries = reinterpret_cast<Entry*>(tables_.host(slot.table));
    return std::atomic_ref<Entry>(entries[arch::index_of(slot.level, slot.start)]);
  }
  // Relaxed: only writers under the lock read entries here; the hardware's walker is served by publish().
  Entry load(const Slot& slot) const { return entry(slot).load(std::memory_order_relaxed); }

  Leaf leaf_of(const Slot& slot, Entry e) const {
    Leaf leaf;
    leaf.start = slot.start;
    leaf.level = slot.level;
    if (e == arch::kNone) return leaf;
    leaf.state = F::present(e) ? State::Present : State::Kept;
    if (leaf.state == State::Kept) e = arch::restored(e);
    leaf.address = F::address(e, slot.level);
    leaf.attributes = F::attributes(e);
    return leaf;
  }

  // The slot that find() ends at.
  Slot slot_of_leaf(Gva va) const {
    Gpa table = root_;
    for (Level level = Level::Pgd;; level = below(level)) {
      const Slot slot = slot_in(table, level, va);
      const Entry e = load(slot);
      if (!is_table(e, level)) return slot;
      table = F::address(e, level);
    }
  }

  // The table of `target` level around the address.
  std::optional<Gpa> table_at(Gva va, Level target) const {
    Gpa table = root_;
    for (Level level = Level::Pgd; level > target; level = below(level)) {
      const Entry e = load(slot_in(table, level, va));
      if (!is_table(e, level)) return std::nullopt;
      table = F::address(e, level);
    }
    return table;
  }

  // The one walk. Visits the leaves that touch [start, last] and, after its entries, each table below
  // the root. Costs what is present: an absent slot at any level is one step.
  template <class OnLeaf, class OnTable>
  void walk(Gpa table, Level level, Gva start, Gva last, OnLeaf&& on_leaf, OnTable&& on_table) const {
    const std::uint64_t span = arch::span_of(level);
    for (Gva va = align_down(start, span);; va += span) {
      const Slot slot{table, level, va};
      const Entry e = load(slot);
      if (is_table(e, level)) {
        const Gpa child = F::address(e, level);
        walk(child, below(level), std::max(va, start), std::min(va + (span - 1), last), on_leaf, on_table);
        on_table(slot, child);
      } else if (e != arch::kNone) {
        on_leaf(slot, e);
      }
      if (last - va < span) return;
    }
  }

  // The one write. Keeps the counts, and tells the batch what processors may still hold. No batch: the
  // slot was absent, or its table is not reachable yet.
  void write(const Slot& slot, Entry next, FlushBatch* batch) {
    const Entry old = load(slot);
    if (old == next) return;
    const Gva end = slot.start + arch::span_of(slot.level);
    if (F::present(old) && batch) {
      if (F::kBreakBeforeMake && F::present(next) && needs_break(old, next, slot.level)) {
        store(slot, arch::kNone);
        F::publish();
        batch->lost(slot.start, end, slot.table);
        batch->flush();
      } else if (loses(old, next, slot.level)) {
        batch->lost(slot.start, end, slot.table);
      } else {
        batch->gained(slot.start, end, slot.table);
      }
    }
    count(slot, old, next);
    store(slot, next);
  }

  // Release: pairs with the acquire of whoever walks in software (the model TLB, later the lock-free
  // faults), which then sees the filled frame or table behind the entry.
  void store(const Slot& slot, Entry e) { entry(slot).store(e, std::memory_order_release); }

  static bool needs_break(Entry old, Entry next, Level level) {
    return F::is_leaf(old, level) != F::is_leaf(next, level) || F::address(old, level) != F::address(next, level);
  }

  // Precondition: old is present.
  static bool loses(Entry old, Entry next, Level level) {
    if (!F::present(next) || needs_break(old, next, level)) return true;
    if (!F::is_leaf(old, level)) return false;
    const Attributes a = F::attributes(old), b = F::attributes(next);
    return (a.write && !b.write) || (a.execute && !b.execute) || a.user != b.user || (a.dirty && !b.dirty) ||
           (a.accessed && !b.accessed);
  }

  void count(const Slot& slot, Entry old, Entry next) {
    if (old == arch::kNone) ++tables_.entries(slot.table);
    if (next == arch::kNone) --tables_.entries(slot.table);
    count_leaf(census_, slot.level, old, -1);
    count_leaf(census_, slot.level, next, +1);
  }

  void count_leaf(Census& census, Level level, Entry e, int by) const {
    if (e == arch::kNone || is_table(e, level)) return;
    const Gpa gpa = F::address(arch::is_kept(e) ? arch::restored(e) : e, level);
    const auto n = static_cast<std::uint64_t>(static_cast<std::int64_t>(by));
    if (memory_.tables().contains(gpa)) return;  // the VMM's own mappings
    if (!is_private(gpa)) census.shared_pages += n * (arch::span_of(level) >> kPageShift);
    else if (level == Level::Pte) census.pages += n;
    else if (level == Level::Pmd) census.blocks += n;
    else census.giants += n;
  }

  Result<Gpa> take_table() {
    auto table = tables_.allocate();
    if (table) counters_.tables_allocated.add();
    return table;
  }

  void drop_if_empty(const Slot& parent, Gpa table, FlushBatch& batch) {
    if (tables_.entries(table) != 0) return;
    write(parent, arch::kNone, &batch);
    batch.release_table(table);
  }

  Result<> split_leaf(const Slot& slot, Entry e, FlushBatch& batch) {
    const auto table = take_table();
    if (!table) return fail(table.error());
    const Leaf leaf = leaf_of(slot, e);
    const Level smaller = below(slot.level);
    for (unsigned i = 0; i < arch::kEntriesPerTable; ++i) {
      const std::uint64_t step = i * arch::span_of(smaller);
      const Entry part = F::leaf(leaf.address + step, smaller, leaf.attributes);
      write(slot_in(*table, smaller, slot.start + step), leaf.state == State::Kept ? arch::kept(part) : part, nullptr);
    }
    F::publish();
    write(slot, F::table(*table), &batch);
    F::publish();
    counters_.blocks_split.add();
    return {};
  }

  Result<> prepare_move(Gva from, Gva to, std::uint64_t length, bool same_offset, FlushBatch& batch) {
    const Gva end = from + length;
    for (Gva va = from; va < end;) {
      const Slot slot = slot_of_leaf(va);
      const Entry e = load(slot);
      if (e == arch::kNone) {
        va = next_of(slot);
        continue;
      }
      if (slot.level == Level::Pud || (slot.level == Level::Pmd && !same_offset)) {
        if (auto done = split_leaf(slot, e, batch); !done) return done;
        continue;
      }
      const Gva block = align_down(va, kBlockSize);
      const bool whole = same_offset && block >= from && end - block >= kBlockSize;
      if (auto ready = prepare(to + (va - from), whole ? Level::Pmd : Level::Pte); !ready) return ready;
      // Nothing more to make for the rest of the block, if the destination's table covers it as well.
      va = same_offset ? block + kBlockSize : next_of(slot);
    }
    return {};
  }

  void move_entry(const Slot& slot, Gva to, FlushBatch& batch) {
    const Entry e = load(slot);
    if (e == arch::kNone) return;
    write(slot, arch::kNone, &batch);
    const Gpa table = *table_at(to, slot.level);
    write(slot_in(table, slot.level, to), e, &batch);
  }

  void audit_table(Gpa table, Level level, Census& seen, std::string& wrong) const {
    unsigned used = 0;
    for (unsigned i = 0; i < arch::kEntriesPerTable; ++i) {
      const Slot slot{table, level, i * arch::span_of(level)};
      const Entry e = load(slot);
      if (e == arch::kNone) continue;
      ++used;
      if (is_table(e, level)) {
        if (!memory_.tables().contains(F::address(e, level))) wrong = "a table lies outside the table bank";
        else audit_table(F::address(e, level), below(level), seen, wrong);
      } else {
        count_leaf(seen, level, e, +1);
        const Attributes a = leaf_of(slot, e).attributes;
        if (a.write && a.execute) wrong = "an entry is writable and executable";
      }
    }
    if (used != tables_.entries(table)) wrong = "a table's count of entries differs from its entries";
  }

  const Memory& memory_;
  TablePool& tables_;
  Counters& counters_;
  const Gpa root_;
};

}  // namespace ramet::mm
