// The page-table walker, over any entry format.
//
//      47      39 38      30 29      21 20      12 11        0
//      [  PGD    |   PUD    |   PMD    |   PTE    |  offset   ]
//   root -> slot -> slot ----> slot ----> slot ----> frame
//                   leaf 1G    leaf 2M    leaf 4K
//
// Two functions matter: walk() visits the tables of a range, and write() changes an entry of a table that processors
// can reach. write() also keeps all counts (entries in use, entries that continue the first, frames by size) and tells
// the batch what to flush, so that neither can be forgotten elsewhere. It is called with the lock of the entry's table
// held (TableLock); tables change places with the address-space lock held as well.
#pragma once

#include <algorithm>
#include <atomic>
#include <optional>
#include <string>

#include "guest-mm/bank.hpp"
#include "guest-mm/frame_pool.hpp"
#include "guest-mm/page_table.hpp"

namespace ramet::mm {

template <arch::EntryFormat F>
class Walker final : public PageTable {
 public:
  using Entry = arch::Entry;

  Walker(const Memory& memory, TablePool& tables, const FramePool& frames, Tlb& tlb, Counters& counters, Gpa root)
      : memory_(memory), tables_(tables), frames_(frames), tlb_(tlb), counters_(counters), root_(root) {
    tables_.never_seal(root);
  }

  Gpa root() const override { return root_; }

  Leaf find(Gva va) const override;

  Extent extent_of(const Leaf& leaf, Gva va, std::uint64_t reach) const override;

  void visit(Gva start, Gva end, const std::function<void(const Leaf&)>& see) const override;

  unsigned entries(Gpa table) const override;

  std::optional<Gpa> table_at(Gva va, Level target) const override;

  unsigned absent(Gpa table, Level level, Gva start, Gva end, std::span<Range> out) const override;

  std::optional<Gpa> place_for(Gpa table, Level level, Gva at) const override;

  void dump(const std::function<void(const Node&)>& see) const override { dump_table(root(), Level::Pgd, 0, see); }

  Result<Gpa> copy_root(Gva end) RAMET_REQUIRES(address_space_lock) override;
  void share_root(Gva end, FlushBatch& batch) RAMET_REQUIRES(address_space_lock) override;
  void adopt_root(Gpa base, Gva end, const Census&) RAMET_REQUIRES(address_space_lock) override;
  void restore_root(Gpa base, Gva end, const Census&, FlushBatch& batch) RAMET_REQUIRES(address_space_lock) override;
  Result<> unshare(Gva va, Level target, FlushBatch& batch) RAMET_REQUIRES(address_space_lock) override;
  Result<> unshare_ends(Gva start, Gva end, FlushBatch& batch) RAMET_REQUIRES(address_space_lock) override;
  Result<> unshare_range(Gva start, Gva end, FlushBatch& batch) RAMET_REQUIRES(address_space_lock) override;
  bool writable(Gpa table) const override { return tables_.writable(table); }
  void substitute(Gpa table, Gva page, Gpa frame) RAMET_REQUIRES(address_space_lock) override;
  Published replace_leaves(std::span<const Replacement>, Guard, EntryFlush&) override;

  Result<Gpa> prepare(Gva va, Level target, FlushBatch& batch) RAMET_REQUIRES(address_space_lock) override;

  void map(Gpa table, Gva va, Level level, Gpa pa, unsigned count, Attributes attributes, FlushBatch& batch)
      RAMET_REQUIRES(address_space_lock) override {
    TableLock lock(tables_.info(table));
    for (unsigned i = 0; i < count; ++i) {
      const std::uint64_t step = i * arch::span_of(level);
      replace(slot_in(table, level, va + step), F::leaf(pa + step, level, attributes), &batch);
    }
    F::publish();
  }

  Outcome publish(const Publication& p, std::vector<Extent>& left_over) override;

  Published add_table(Gpa pmd_table, Gva va, Guard guard, Gpa& added) override;

  Published upgrade(const Leaf& seen, Attributes attributes, Guard guard, EntryFlush& batch) override;

  Merged merge(Gva va, Level level, FlushBatch& batch) RAMET_REQUIRES(address_space_lock) override;

  bool uniform(Gva va, Level level) const override {
    const auto table = table_at(va, level);
    return table && writable(*table) && is_uniform(tables_.info(*table));
  }

  Result<> split(Gva boundary, FlushBatch& batch) RAMET_REQUIRES(address_space_lock) override {
    // A giant leaf first becomes blocks, then the block with the boundary inside becomes pages.
    return split_while([&](const Slot& slot) { return !is_aligned(boundary, arch::span_of(slot.level)); }, boundary,
                       batch);
  }

  Result<> split_to(Gva va, Level smallest, FlushBatch& batch) RAMET_REQUIRES(address_space_lock) override {
    return split_while([&](const Slot& slot) { return slot.level > smallest; }, va, batch);
  }

  void unmap(Gva start, Gva end, FlushBatch& batch) RAMET_REQUIRES(address_space_lock) override {
    walk<Walking::Change>(
        root(), Level::Pgd, start, end - 1,
        [&](const Slot& slot, Entry) {
          const Leaf leaf = leaf_of(slot, replace(slot, arch::kNone, &batch));
          if (is_private(leaf.address)) batch.release_frames(leaf.address, leaf.span() >> kPageShift);
        },
        [&](const Slot& slot, Gpa table) {
          address_space_lock.assume_held();  // by unmap(), which the walk cannot say
          if (writable(table)) drop_if_empty(slot, table, batch);
          else drop_shared(slot, table, batch);
        });
    F::publish();
  }

  void update(Gva start, Gva end, const std::function<Change(const Leaf&)>& rule, FlushBatch& batch)
      RAMET_REQUIRES(address_space_lock) override {
    walk<Walking::Change>(
        root(), Level::Pgd, start, end - 1, [&](const Slot& slot, Entry e) { change(slot, e, rule, batch); },
        [&](const Slot& slot, Gpa table) {
          if (writable(table) && is_uniform(tables_.info(table))) batch.uniform(slot.start, below(slot.level));
        });
    F::publish();
  }

  void update_leaf(const Leaf& leaf, const std::function<Change(const Leaf&)>& rule, FlushBatch& batch)
      RAMET_REQUIRES(address_space_lock) override {
    const Slot slot{leaf.table, leaf.level, leaf.start};
    TableInfo& info = tables_.info(slot.table);
    TableLock lock(info);
    change(slot, load(slot), rule, batch);
    if (is_uniform(info)) batch.uniform(slot.start, slot.level);
    F::publish();
  }

  Result<> move(Gva from, Gva to, std::uint64_t length, FlushBatch& batch) RAMET_REQUIRES(address_space_lock) override;

  Census census() const override {
    return {.pages = pages_.load(std::memory_order_relaxed),
            .blocks = blocks_.load(std::memory_order_relaxed),
            .giants = giants_.load(std::memory_order_relaxed),
            .inherited_pages = inherited_pages_.load(std::memory_order_relaxed),
            .shared_pages = shared_pages_.load(std::memory_order_relaxed)};
  }

  std::string audit() const override;

 private:
  struct Slot {
    Gpa table;
    Level level;
    Gva start;  // the address the slot is for
  };

  enum class Walking : std::uint8_t { Look, Change };

  static constexpr Level below(Level l) { return Level(unsigned(l) - 1); }
  static constexpr Level above(Level l) { return Level(unsigned(l) + 1); }
  [[gnu::always_inline]] static bool is_table(Entry e, Level l) {
    return (F::present(e) || is_shared(e)) && !F::is_leaf(e, l);
  }
  static bool is_shared(Entry e) { return e & arch::kSharedTable; }
  static Slot slot_in(Gpa table, Level level, Gva va) { return {table, level, align_down(va, arch::span_of(level))}; }
  static Gva next_of(const Slot& slot) { return slot.start + arch::span_of(slot.level); }
  bool is_private(Gpa gpa) const { return memory_.data().contains(gpa); }

  std::atomic_ref<Entry> entry(const Slot& slot) const {
    auto* entries = reinterpret_cast<Entry*>(tables_.host(slot.table));
    return std::atomic_ref<Entry>(entries[arch::index_of(slot.level, slot.start)]);
  }
  // Acquire: pairs with the release in store() and exchange(): the table or frame behind the entry was written before.
  Entry load(const Slot& slot) const { return entry(slot).load(std::memory_order_acquire); }

  [[gnu::always_inline]] Leaf leaf_of(const Slot& slot, Entry e) const {
    Leaf leaf;
    leaf.start = slot.start;
    leaf.level = slot.level;
    leaf.table = slot.table;
    if (e == arch::kNone) return leaf;
    leaf.state = e == arch::kChanging ? State::Changing : F::present(e) ? State::Present : State::Kept;
    if (leaf.state == State::Changing) return leaf;
    if (leaf.state == State::Kept) e = arch::restored(e);
    leaf.address = F::address(e, slot.level);
    leaf.attributes = F::attributes(e);
    return leaf;
  }

  // Takes the lock of a table in which a fault is about to write; without the address-space lock (the guard has a
  // sequence) it tries once. Done: as long as `lock` lives, the table stays in the tree, and the fault's region is as
  // the fault has seen it: a thread that changes the region makes its sequence odd first and then takes the table's
  // lock. So either the odd sequence is seen here, or the change comes later and finds what the fault wrote. Not
  // analysed: which lock is taken, and whether, is known at run time only.
  Published enter(std::optional<TableLock>& lock, Gpa table, Guard guard) const RAMET_NO_THREAD_SAFETY_ANALYSIS;

  // Where the walk to an address ends: at a leaf, or at the largest empty slot around it.
  struct WayEnd {
    Slot slot;
    Entry entry;
    bool below_shared;  // a table on the way is shared
  };
  // Every fault walks this way. So there is an instance for each level, with constant shifts and masks, and calls are
  // inlined, which the compiler would not do by itself.
  template <Level L = Level::Pgd>
  [[gnu::always_inline]] WayEnd descend(Gpa table, Gva va, bool below_shared = false) const {
    auto* const entries = reinterpret_cast<Entry*>(tables_.host(table));
    const Entry e = std::atomic_ref(entries[arch::index_of(L, va)]).load(std::memory_order_acquire);  // see load()
    if constexpr (L != Level::Pte) {
      if (is_table(e, L)) return descend<below(L)>(F::address(e, L), va, below_shared || is_shared(e));
    }
    return {slot_in(table, L, va), e, below_shared};
  }
  Slot slot_of_leaf(Gva va) const { return descend(root_, va).slot; }

  // The one walk. Visits the leaves that touch [start, last] and, after its entries, each table below the root. The
  // cost follows what is present: an absent slot at any level is one step. With Walking::Change, `on_leaf` may write
  // the entry: the lock of its table is held, for the whole table if it is one of pages, else for each leaf. A table of
  // blocks is passed first (pass()): a fault without the address-space lock that began before the region was seized may
  // be publishing a block in a slot that would be found empty here; later faults see that the region is seized. Shared
  // tables are not entered, only given to `on_table`.
  template <Walking W, class OnLeaf, class OnTable>
  void walk(Gpa table, Level level, Gva start, Gva last, OnLeaf&& on_leaf, OnTable&& on_table) const {
    const std::uint64_t span = arch::span_of(level);
    std::optional<TableLock> lock;
    if (W == Walking::Change && level == Level::Pte) lock.emplace(tables_.info(table));
    if (W == Walking::Change && level == Level::Pmd) pass(table);
    for (Gva va = align_down(start, span);; va += span) {
      const Slot slot{table, level, va};
      const Entry e = load(slot);
      if (is_table(e, level)) {
        const Gpa child = F::address(e, level);
        if (W == Walking::Look || writable(child))
          walk<W>(child, below(level), std::max(va, start), std::min(va + (span - 1), last), on_leaf, on_table);
        on_table(slot, child);
      } else if (e != arch::kNone) {
        if (W == Walking::Change && level > Level::Pte) {
          TableLock one(tables_.info(table));
          on_leaf(slot, load(slot));
        } else {
          on_leaf(slot, e);
        }
      }
      if (last - va < span) return;
    }
  }

  // The one write, with the table's lock held. Keeps the counts, and tells the batch what processors may still hold.
  // No batch: the slot was absent, or its table is not reachable yet. False if the entry is not `expected` any more;
  // `expected` then has its value. The hardware sets accessed and dirty bits at any time, and they must not get lost.
  // `synced`: another entry made the same frames executable until now.
  bool write(const Slot& slot, Entry& expected, Entry next, EntryFlush* batch, bool synced = false) {
    if (expected == next) return true;
    const Entry old = expected;
    const Gva end = slot.start + arch::span_of(slot.level);
    if (batch && old != arch::kNone) batch->reserve(1);
    if (!synced && executes(next, slot.level) && (!executes(old, slot.level) || needs_break(old, next, slot.level)))
      sync(next, slot.level);
    count_deferred(old, next, slot.level);
    const bool breaks = F::kBreakBeforeMake && F::present(old) && F::present(next) && batch &&
                        needs_break(old, next, slot.level);
    if (!exchange(slot, expected, breaks ? arch::kChanging : next)) return false;
    count(slot, old, next);
    if (F::present(old) && batch) {
      if (breaks) {
        F::publish();
        batch->lost(slot.start, end, slot.table);
        batch->flush();
        store(slot, next);
      } else if (!reshapes(old, next, slot.level) && loses(old, next, slot.level)) {
        batch->lost(slot.start, end, slot.table);
      } else if (!F::is_leaf(old, slot.level) || F::attributes(old).accessed) {  // else no processor holds it
        batch->gained(slot.start, end, slot.table);
      }
    }
    return true;
  }

  // Writes what the rule makes of the entry, with the table's lock held.
  void change(const Slot& slot, Entry e, const std::function<Change(const Leaf&)>& rule, FlushBatch& batch) {
    for (;;) {  // again if the hardware has set a bit meanwhile
      const Change wanted = rule(leaf_of(slot, e));
      const Entry live = arch::is_kept(e) ? arch::restored(e) : e;
      const Entry next = F::with(live, wanted.attributes);
      if (write(slot, e, wanted.state == State::Kept ? arch::kept(next) : next, &batch)) return;
    }
  }

  static bool executes(Entry e, Level level) {
    return F::present(e) && F::is_leaf(e, level) && F::attributes(e).execute;
  }

  static bool withholds(Entry e, Level level) {
    return F::present(e) && F::is_leaf(e, level) && F::attributes(e).deferred_exec;
  }
  void count_deferred(Entry old, Entry next, Level level) {
    const bool withheld = withholds(old, level);
    if (withheld == withholds(next, level)) return;
    if (!withheld) counters_.exec_deferred.add(arch::span_of(level) >> kPageShift);
    else if (executes(next, level)) counters_.exec_granted.add(arch::span_of(level) >> kPageShift);
  }

  // Called before an entry is written that makes frames executable which were not executable by this entry.
  void sync(Entry next, Level level) {
    counters_.exec_syncs.add(arch::span_of(level) >> kPageShift);
    const bool timed = tlb_.needs_exec_sync();
    const std::uint64_t began = timed ? tlb_.now() : 0;
    tlb_.exec_sync(F::address(next, level), arch::span_of(level));
    if (timed) counters_.exec_sync_time.add(tlb_.now() - began);
  }

  // Writes `next` whatever the entry is; returns what it was.
  Entry replace(const Slot& slot, Entry next, EntryFlush* batch, bool synced = false) {
    Entry old = load(slot);
    while (!write(slot, old, next, batch, synced)) {}
    return old;
  }

  // Atomic because the hardware may set a bit of a present leaf at any time; no other thread writes, as the table's
  // lock is held.
  bool exchange(const Slot& slot, Entry& expected, Entry next) {
    return entry(slot).compare_exchange_strong(expected, next, std::memory_order_acq_rel, std::memory_order_acquire);
  }

  // Release: pairs with the acquire of walks in software (load(), the model TLB), which then see what was written to
  // the frame or table behind the entry.
  void store(const Slot& slot, Entry e) { entry(slot).store(e, std::memory_order_release); }

  static bool needs_break(Entry old, Entry next, Level level) {
    return F::is_leaf(old, level) != F::is_leaf(next, level) || F::address(old, level) != F::address(next, level);
  }

  // Whether a table becomes a leaf. Only merge() does that, with a leaf that maps the same. It loses nothing:
  // processors may go on using what they hold of the table as long as its page is not reused, which
  // FlushBatch::merged() sees to.
  static bool reshapes(Entry old, Entry next, Level level) {
    return is_table(old, level) && F::present(next) && F::is_leaf(next, level);
  }

  // Whether a processor that holds the old entry could do what the new one does not allow. A processor holds no entry
  // without the accessed bit, and writes through one without the dirty bit only after looking at the tables again.
  // Precondition: old is present.
  static bool loses(Entry old, Entry next, Level level) {
    if (!F::is_leaf(old, level))
      return !is_table(next, level) || needs_break(old, next, level) || (is_shared(next) && !is_shared(old));
    const Attributes a = F::attributes(old);
    if (!a.accessed) return false;
    if (!F::present(next) || needs_break(old, next, level)) return true;
    const Attributes b = F::attributes(next);
    return (a.write && a.dirty && !b.write) || (a.execute && !b.execute) || a.user != b.user || (a.dirty && !b.dirty) ||
           !b.accessed;
  }

  // Whether every entry of the table continues the first, as in one larger leaf: the same attributes, except for bits
  // that the hardware sets, and the next frame. Each write keeps the count; a new first entry has all of them
  // recounted.
  static bool is_uniform(const TableInfo& info) {
    return info.continuing.load(std::memory_order_relaxed) == arch::kEntriesPerTable - 1;
  }
  static bool continues(Entry first, Level level, unsigned index, Entry e) {
    return F::present(first) && F::present(e) && F::is_leaf(first, level) &&
           F::stable(e) == F::stable(first) + index * arch::span_of(level);
  }

  void count(const Slot& slot, Entry old, Entry next) {
    TableInfo& info = tables_.info(slot.table);
    // Relaxed, and no atomic addition: written with the table's lock alone; read without it as a hint.
    const auto add = [](std::atomic<std::uint16_t>& to, int n) {
      to.store(static_cast<std::uint16_t>(to.load(std::memory_order_relaxed) + n), std::memory_order_relaxed);
    };
    add(info.entries, (old == arch::kNone) - (next == arch::kNone));
    count_leaf(slot.level, old, -1);
    count_leaf(slot.level, next, +1);
    if (const unsigned index = arch::index_of(slot.level, slot.start); index == 0) {
      if (F::stable(old) == F::stable(next) && F::present(old) == F::present(next)) return;
      info.continuing.store(static_cast<std::uint16_t>(count_continuing(slot, next)), std::memory_order_relaxed);
    } else {
      const Entry first = load(slot_in(slot.table, slot.level, slot.start - index * arch::span_of(slot.level)));
      const int change = continues(first, slot.level, index, next) - continues(first, slot.level, index, old);
      if (change != 0) add(info.continuing, change);
    }
  }

  unsigned count_continuing(const Slot& slot, Entry first) const {
    unsigned n = 0;
    if (!F::present(first) || !F::is_leaf(first, slot.level)) return 0;
    const auto* entries = reinterpret_cast<Entry*>(tables_.host(slot.table));
    for (unsigned i = 1; i < arch::kEntriesPerTable; ++i) {
      n += continues(first, slot.level, i,
                     std::atomic_ref(const_cast<Entry&>(entries[i])).load(std::memory_order_relaxed));
    }
    return n;
  }

  // Relaxed: statistics, exact whenever no fault is under way.
  void count_leaf(Level level, Entry e, int by) {
    if (std::atomic<std::uint64_t>* total = total_for(level, e)) {
      const std::uint64_t unit = total == &shared_pages_ || total == &inherited_pages_
                                     ? arch::span_of(level) >> kPageShift
                                     : 1;
      total->fetch_add(unit * static_cast<std::uint64_t>(static_cast<std::int64_t>(by)), std::memory_order_relaxed);
    }
  }
  std::atomic<std::uint64_t>* total_for(Level level, Entry e) {
    if (e == arch::kNone || e == arch::kChanging || is_table(e, level)) return nullptr;
    const Entry live = arch::is_kept(e) ? arch::restored(e) : e;
    const Gpa gpa = F::address(live, level);
    // The VMM's own mappings: ring 0's, in stage 1, tables, and the machine's.
    if (!F::attributes(live).user || memory_.tables().contains(gpa) || gpa < Memory::kTableBase) return nullptr;
    if (!is_private(gpa)) return memory_.inherited(gpa) ? &inherited_pages_ : &shared_pages_;
    return level == Level::Pte ? &pages_ : level == Level::Pmd ? &blocks_ : &giants_;
  }

  Result<Gpa> take_table() RAMET_REQUIRES(address_space_lock) {
    auto table = tables_.allocate();
    if (table) counters_.tables_allocated.add();
    return table;
  }

  void drop_if_empty(const Slot& parent, Gpa table, FlushBatch& batch) RAMET_REQUIRES(address_space_lock);

  template <class TooLarge>
  Result<> split_while(TooLarge&& too_large, Gva va, FlushBatch& batch) RAMET_REQUIRES(address_space_lock) {
    for (;;) {
      Slot slot = slot_of_leaf(va);
      if (load(slot) == arch::kNone || !too_large(slot)) return {};
      if (auto owned = unshare(va, slot.level, batch); !owned) return owned;
      slot = slot_of_leaf(va);
      if (auto done = split_leaf(slot, batch); !done) return done;
    }
  }

  Result<> split_leaf(const Slot& slot, FlushBatch& batch) RAMET_REQUIRES(address_space_lock);
  void write_parts(Gpa table, Level level, const Leaf& whole);
  Result<> prepare_move(Gva from, Gva to, std::uint64_t length, bool same_offset, FlushBatch& batch)
      RAMET_REQUIRES(address_space_lock);

  void move_entry(const Slot& slot, Gva to, FlushBatch& batch) RAMET_REQUIRES(address_space_lock);

  // Takes and releases the table's lock. Faults without the address-space lock that began before the regions were
  // seized have then published in the table, or will find the regions changed: they do both under that lock.
  void pass(Gpa table) const { TableLock by_now(tables_.info(table)); }
  void pass_faults(Gva start, Gva end) {
    walk<Walking::Look>(
        root(), Level::Pgd, start, end - 1, [](const Slot&, Entry) {},
        [this](const Slot&, Gpa table) {
          if (writable(table)) pass(table);
        });
  }

  Result<Gpa> unshare_child(const Slot& slot, Entry e, FlushBatch& batch) RAMET_REQUIRES(address_space_lock);

  Result<> unshare_towards(Gva boundary, FlushBatch& batch) RAMET_REQUIRES(address_space_lock);

  void copy_shared(Gpa to, Gpa from, Level level, bool share);

  void leave(Gpa table, FlushBatch& batch) RAMET_REQUIRES(address_space_lock);

  void drop_shared(const Slot& parent, Gpa table, FlushBatch& batch) RAMET_REQUIRES(address_space_lock);

  void leave_tree(const Slot& parent, Gpa table, FlushBatch& batch) RAMET_REQUIRES(address_space_lock);

  struct Withheld {
    Entry from = arch::kNone, to = arch::kNone;  // without the frame's address
  };
  Entry inherited(Entry e, Level level, bool share, Withheld& last) const;

  struct Restored {
    Slot slot;
    Entry entry;
  };
  bool restore(Gpa table, Gpa base, const Slot& first, unsigned entries, std::vector<Restored>& changes,
               FlushBatch& batch) RAMET_REQUIRES(address_space_lock);

  void count_inherited(const Census& census);

  void dump_table(Gpa table, Level level, Gva start, const std::function<void(const Node&)>& see) const;

  // Not analysed: called when no fault is under way, and reports a table that is locked.
  void audit_table(Gpa table, Level level, Census& seen, std::string& wrong) const RAMET_NO_THREAD_SAFETY_ANALYSIS;

  const Memory& memory_;
  TablePool& tables_;
  const FramePool& frames_;
  Tlb& tlb_;
  Counters& counters_;
  const Gpa root_;  // never shared
  std::atomic<std::uint64_t> pages_{0}, blocks_{0}, giants_{0}, inherited_pages_{0},
      shared_pages_{0};  // see count_leaf()
};

}  // namespace ramet::mm
