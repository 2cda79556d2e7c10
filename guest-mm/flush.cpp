// Collecting and carrying out flushes.
#include "guest-mm/flush.hpp"

#include <algorithm>
#include <new>

#include "guest-mm/backing.hpp"

namespace ramet::mm {

FlushBatch::Held::~Held() {
  for (const auto& bank : banks) memory->detach(bank);
}

void EntryFlush::Pending::add(Gva start, Gva end, Gpa table) {
  any = true;
  if (tables.empty() || tables.back() != table) tables.add(table);
  if (everything) return;
  if (!ranges.empty() && ranges.back().end == start) {
    ranges.back().end = end;
  } else if (ranges.empty() || ranges.back().start > start || ranges.back().end < end) {
    ranges.add({start, end});
    everything = ranges.size() > kMaxRanges;
  }
}

FlushRequest EntryFlush::Pending::request() {
  std::ranges::sort(tables.all());
  tables.resize_down(tables.size() - std::ranges::unique(tables.all()).size());
  if (everything) ranges.clear();
  return {.ranges = ranges.all(), .tables = tables.all(), .everything = everything, .frees_tables = frees_tables};
}

void EntryFlush::Pending::clear() {
  ranges.clear();
  tables.clear();
  everything = any = frees_tables = false;
}

void EntryFlush::reserve(std::size_t changes) { reserve(changes, 0); }

// A strict flush includes the relaxed one of its batch, and the deferred tables.
void EntryFlush::reserve(std::size_t changes, std::size_t riding) {
  relaxed_.ranges.reserve(changes);
  relaxed_.tables.reserve(changes);
  strict_.ranges.reserve(changes + relaxed_.ranges.size() + changes);
  strict_.tables.reserve(2 * changes + relaxed_.tables.size() + changes + 2 * riding);
  freed_frames_.reserve(changes);
}

void FlushBatch::reserve(std::size_t changes) {
  EntryFlush::reserve(changes, deferred_.merged.size() + changes);
  for (auto* list : {&deferred_.merged, &deferred_.changed}) {
    if (list->capacity() - list->size() < changes) list->reserve(2 * list->capacity() + changes);
  }
}

void EntryFlush::lost(Gva start, Gva end, Gpa table) { strict_.add(start, end, table); }

void EntryFlush::gained(Gva start, Gva end, Gpa table) { (parts_.relaxed ? relaxed_ : strict_).add(start, end, table); }

void FlushBatch::merged(Gpa table, Gpa parent) {
  deferred_.merged.push_back(table);
  deferred_.changed.push_back(parent);
  if (deferred_.merged.size() >= DeferredTables::kMany || !parts_.relaxed) take_deferred_ = true;
}

void EntryFlush::release_frames(Gpa gpa, std::uint64_t pages) {
  if (!freed_frames_.empty()) {
    Frames& last = freed_frames_.back();
    if (last.gpa + (last.pages << kPageShift) == gpa) {
      last.pages += pages;
      return;
    }
  }
  freed_frames_.add({gpa, pages});
}

void FlushBatch::release_table(Gpa gpa) {
  strict_.any = strict_.frees_tables = true;
  strict_.tables.add(gpa);
  tables_.push(freed_tables_, gpa);
}

void EntryFlush::flush() {
  ride_along();
  if (strict_.any) {
    // One strict flush absorbs the relaxed ones of its batch: both kinds drop the entries they name.
    strict_.ranges.add_all(relaxed_.ranges);
    strict_.tables.add_all(relaxed_.tables);
    strict_.everything = strict_.everything || relaxed_.everything || strict_.ranges.size() > kMaxRanges;
    const FlushRequest request = strict_.request();
    parts_.counters.flushes.add();
    parts_.counters.flush_ranges.add(request.ranges.size());
    parts_.counters.flush_tables.add(request.tables.size());
    parts_.tlb.flush(request);
    flushed_ = true;
  } else if (relaxed_.any) {
    parts_.counters.flushes_relaxed.add();
    parts_.tlb.advance();  // before other vCPUs may be told: one that faults now finds its own generation old
    parts_.tlb.flush_relaxed(relaxed_.request());
    flushed_ = true;
  }
  strict_.clear();
  relaxed_.clear();
}

void EntryFlush::commit_entries() {
  flush();
  if (!flushed_) parts_.counters.flushes_avoided.add();
  flushed_ = false;
  for (const Frames& f : freed_frames_.all()) {
    if (parts_.pins) parts_.pins->free(f.gpa, f.pages);
    else parts_.frames.free(f.gpa, f.pages);
  }
  freed_frames_.clear();
}

SpeculativeFlush::~SpeculativeFlush() {
  if (pending()) commit_entries();
}

FlushBatch::~FlushBatch() {
  try {
    finish();
  } catch (const std::bad_alloc&) {  // only merge_uniform() allocates, and what it did not merge stays as it is
    if (pending()) commit_all();
  }
}

void FlushBatch::ride_along() {
  if (!strict_.any && !take_deferred_) return;
  take_deferred_ = false;
  if (deferred_.merged.empty()) return;
  strict_.any = strict_.frees_tables = true;
  for (const Gpa table : deferred_.merged) strict_.tables.add(table), tables_.push(freed_tables_, table);
  for (const Gpa table : deferred_.changed) strict_.tables.add(table);
  deferred_.merged.clear();
  deferred_.changed.clear();
}

void FlushBatch::merge_uniform() {
  for (const Uniform& found : std::exchange(uniform_, {}))
    if (merger_) merger_->merge_locked(found.at, found.level, *this);
}

void FlushBatch::commit() {
  if (!uniform_.empty()) merge_uniform();
  commit_all();
}

void FlushBatch::commit_all() {
  commit_entries();
  while (const auto table = tables_.pop(freed_tables_)) {
    tables_.retire(*table);
    parts_.counters.tables_freed.add();
  }
}

}  // namespace ramet::mm
