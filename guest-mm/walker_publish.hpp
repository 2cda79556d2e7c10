// The walker's members by which faults change entries, with the address-space lock or without it: always under the lock
// of the entry's table, and only if the region and the entry are still as the fault has seen them. Included by
// walker_x86_64.cpp and walker_arm64.cpp alone.
#pragma once

#include "guest-mm/walker.hpp"

namespace ramet::mm {

template <arch::EntryFormat F>
PageTable::Published Walker<F>::enter(std::optional<TableLock>& lock, Gpa table, Guard guard) const {
  if (!tables_.contains(table)) return Published::TableGone;
  TableInfo& info = tables_.info(table);
  if (guard.sequence && !info.lock.try_lock()) return Published::Busy;
  if (guard.sequence) lock.emplace(info, kAdopt);
  else lock.emplace(info);
  if (info.dead || !writable(table)) return Published::TableGone;
  if (guard.sequence && !guard.sequence->unchanged(guard.value)) return Published::Changed;
  return Published::Done;
}

template <arch::EntryFormat F>
PageTable::Outcome Walker<F>::publish(const Publication& p, std::vector<Extent>& left_over) {
  const auto give_back = [&](Published why) {
    left_over.assign(p.extents.begin(), p.extents.end());
    return Outcome{.how = why};
  };
  std::optional<TableLock> lock;
  if (const Published in = enter(lock, p.table, p.guard); in != Published::Done) return give_back(in);
  const std::uint64_t span = arch::span_of(p.level);
  Outcome outcome;
  for (const Extent& extent : p.extents) {
    for (std::uint64_t done = 0; done < extent.pages << kPageShift; done += span) {
      const Gva at = extent.start + done;
      const Entry entry = F::leaf(extent.frame + done, p.level, p.address - at < span ? p.attributes : p.around);
      if (Entry none = arch::kNone; write(slot_in(p.table, p.level, at), none, entry, nullptr)) ++outcome.mapped;
      else left_over.push_back({at, extent.frame + done, span >> kPageShift});
    }
  }
  F::publish();
  outcome.uniform = is_uniform(tables_.info(p.table));
  const Entry now = load(slot_in(p.table, p.level, p.address));
  outcome.there = now != arch::kNone && !is_table(now, p.level);
  return outcome;
}

template <arch::EntryFormat F>
PageTable::Published Walker<F>::add_table(Gpa pmd_table, Gva va, Guard guard, Gpa& added) {
  const auto fresh = tables_.take_stocked();  // before enter() checks the PMD table: a seal in between covers both
  if (!fresh) return Published::TableGone;
  std::optional<TableLock> lock;
  Published done = enter(lock, pmd_table, guard);
  Entry none = arch::kNone;
  if (done == Published::Done && !write(slot_in(pmd_table, Level::Pmd, va), none, F::table(*fresh), nullptr))
    done = Published::Changed;
  if (done == Published::Done) counters_.tables_allocated.add(), added = *fresh;
  else tables_.put_back(*fresh);
  F::publish();
  return done;
}

template <arch::EntryFormat F>
PageTable::Published Walker<F>::upgrade(const Leaf& seen, Attributes attributes, Guard guard, EntryFlush& batch) {
  if (seen.table_shared) return Published::TableGone;
  std::optional<TableLock> lock;
  if (const Published in = enter(lock, seen.table, guard); in != Published::Done) return in;
  const Slot slot = slot_in(seen.table, seen.level, seen.start);
  Entry e = load(slot);
  if (!F::present(e) || !F::is_leaf(e, seen.level) || F::address(e, seen.level) != seen.address)
    return Published::Changed;
  const Entry next = F::with(e, attributes);
  if (loses(e, next, seen.level)) return Published::Changed;
  if (!write(slot, e, next, &batch)) return Published::Changed;
  F::publish();
  return Published::Done;
}

template <arch::EntryFormat F>
PageTable::Published Walker<F>::replace_leaves(std::span<const Replacement> all, Guard guard, EntryFlush& batch) {
  const Gpa table = all.front().seen.table;
  if (all.front().seen.table_shared) return Published::TableGone;
  std::optional<TableLock> lock;
  if (const Published in = enter(lock, table, guard); in != Published::Done) return in;
  const auto same = [&](const Replacement& r) {
    const Leaf now = leaf_of({table, r.seen.level, r.seen.start}, load({table, r.seen.level, r.seen.start}));
    return now.state == State::Present && now.address == r.seen.address && !now.attributes.write;
  };
  if (!std::ranges::all_of(all, same)) return Published::Changed;
  batch.reserve(all.size());
  // No vCPU may write the new frame while another still reads the old one: the entries are absent in between.
  for (const Replacement& r : all) replace({table, r.seen.level, r.seen.start}, arch::kChanging, &batch);
  F::publish();
  if (batch.pending()) batch.flush();
  for (const Replacement& r : all) {
    replace({table, r.seen.level, r.seen.start}, F::leaf(r.frame, r.seen.level, r.attributes), nullptr);
    if (is_private(r.seen.address)) batch.release_frames(r.seen.address, r.seen.span() >> kPageShift);
  }
  F::publish();
  return Published::Done;
}

}  // namespace ramet::mm
