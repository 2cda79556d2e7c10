// Collecting and carrying out flushes.
#include "guest-mm/flush.hpp"

#include <algorithm>

#include "guest-mm/backing.hpp"

namespace ramet::mm {

FlushBatch::Held::~Held() {
  for (const auto& bank : banks) memory->detach(bank);
}

void EntryFlush::Pending::add(Gva start, Gva end, Gpa table) {
  any = true;
  if (tables.empty() || tables.back() != table) tables.push_back(table);
  if (everything) return;
  if (!ranges.empty() && ranges.back().end == start) {
    ranges.back().end = end;
  } else if (ranges.empty() || ranges.back().start > start || ranges.back().end < end) {
    ranges.push_back({start, end});
    everything = ranges.size() > kMaxRanges;
  }
}

FlushRequest EntryFlush::Pending::request() {
  std::ranges::sort(tables);
  tables.erase(std::ranges::unique(tables).begin(), tables.end());
  if (everything) ranges.clear();
  return {.ranges = ranges, .tables = tables, .everything = everything};
}

void EntryFlush::Pending::clear() {
  ranges.clear();
  tables.clear();
  everything = any = false;
}

void EntryFlush::lost(Gva start, Gva end, Gpa table) { strict_.add(start, end, table); }

void EntryFlush::gained(Gva start, Gva end, Gpa table) { (parts_.relaxed ? relaxed_ : strict_).add(start, end, table); }

void FlushBatch::merged(Gpa table, Gpa parent) {
  deferred_.merged.push_back(table);
  deferred_.changed.push_back(parent);
  if (deferred_.merged.size() >= DeferredTables::kMany || !parts_.relaxed) settle_ = true;
}

void EntryFlush::release_frames(Gpa gpa, std::uint64_t pages) {
  if (!freed_frames_.empty()) {
    Frames& last = freed_frames_.back();
    if (last.gpa + (last.pages << kPageShift) == gpa) {
      last.pages += pages;
      return;
    }
  }
  freed_frames_.push_back({gpa, pages});
}

void FlushBatch::release_table(Gpa gpa) {
  strict_.any = true;
  strict_.tables.push_back(gpa);
  freed_tables_.push_back(gpa);
}

void EntryFlush::flush() {
  ride_along();
  if (strict_.any) {
    // One strict flush absorbs the relaxed ones of its batch: both kinds drop the entries they name.
    for (const auto& range : relaxed_.ranges) strict_.ranges.push_back(range);
    strict_.tables.insert(strict_.tables.end(), relaxed_.tables.begin(), relaxed_.tables.end());
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
  for (const Frames& f : freed_frames_) {
    if (parts_.pins) parts_.pins->free(f.gpa, f.pages);
    else parts_.frames.free(f.gpa, f.pages);
  }
  freed_frames_.clear();
}

SpeculativeFlush::~SpeculativeFlush() {
  if (pending()) commit_entries();
}

FlushBatch::~FlushBatch() { finish(); }

void FlushBatch::ride_along() {
  if (!strict_.any && !settle_) return;
  settle_ = false;
  if (deferred_.merged.empty()) return;
  strict_.any = true;
  strict_.tables.insert(strict_.tables.end(), deferred_.merged.begin(), deferred_.merged.end());
  strict_.tables.insert(strict_.tables.end(), deferred_.changed.begin(), deferred_.changed.end());
  freed_tables_.insert(freed_tables_.end(), deferred_.merged.begin(), deferred_.merged.end());
  deferred_.merged.clear();
  deferred_.changed.clear();
}

void FlushBatch::merge_uniform() {
  for (const Uniform& found : std::exchange(uniform_, {}))
    if (merger_) merger_->merge_locked(found.at, found.level, *this);
}

void FlushBatch::commit() {
  merge_uniform();
  commit_entries();
  for (Gpa table : freed_tables_) {
    tables_.retire(table);
    parts_.counters.tables_freed.add();
  }
  freed_tables_.clear();
}

void FlushBatch::finish() {
  merge_uniform();
  if (pending()) commit();
}

}  // namespace ramet::mm
