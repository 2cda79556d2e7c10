// Collecting and carrying out flushes.
#include "guest-mm/flush.hpp"

#include <algorithm>
#include <cassert>

#include "guest-mm/backing.hpp"

namespace ramet::mm {

FlushBatch::~FlushBatch() {
  assert(!strict_.any && !relaxed_.any && freed_frames_.empty() && freed_tables_.empty());
  for (const auto& bank : banks_) memory_->detach(bank);
}

void FlushBatch::Pending::add(Gva start, Gva end, Gpa table) {
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

FlushRequest FlushBatch::Pending::request() {
  std::ranges::sort(tables);
  tables.erase(std::ranges::unique(tables).begin(), tables.end());
  if (everything) ranges.clear();
  return {.ranges = ranges, .tables = tables, .everything = everything};
}

void FlushBatch::Pending::clear() {
  ranges.clear();
  tables.clear();
  everything = any = false;
}

void FlushBatch::lost(Gva start, Gva end, Gpa table) { strict_.add(start, end, table); }

void FlushBatch::gained(Gva start, Gva end, Gpa table) { (relaxed_flushes_ ? relaxed_ : strict_).add(start, end, table); }

void FlushBatch::merged(Gpa table, Gpa parent) {
  deferred_.merged.push_back(table);
  deferred_.changed.push_back(parent);
  if (deferred_.merged.size() >= DeferredTables::kMany || !relaxed_flushes_) settle_ = true;
}

void FlushBatch::release_frames(Gpa gpa, std::uint64_t pages) {
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

void FlushBatch::flush() {
  if (strict_.any || settle_) {
    if (locked_ && !deferred_.merged.empty()) {
      strict_.any = true;
      strict_.tables.insert(strict_.tables.end(), deferred_.merged.begin(), deferred_.merged.end());
      strict_.tables.insert(strict_.tables.end(), deferred_.changed.begin(), deferred_.changed.end());
      freed_tables_.insert(freed_tables_.end(), deferred_.merged.begin(), deferred_.merged.end());
      deferred_.merged.clear();
      deferred_.changed.clear();
    }
    settle_ = false;
  }
  if (strict_.any) {
    // One strict flush absorbs the relaxed ones of its batch: both kinds drop the entries they name.
    for (const auto& range : relaxed_.ranges) strict_.ranges.push_back(range);
    strict_.tables.insert(strict_.tables.end(), relaxed_.tables.begin(), relaxed_.tables.end());
    strict_.everything = strict_.everything || relaxed_.everything || strict_.ranges.size() > kMaxRanges;
    const FlushRequest request = strict_.request();
    counters_.flushes.add();
    counters_.flush_ranges.add(request.ranges.size());
    counters_.flush_tables.add(request.tables.size());
    tlb_.flush(request);
    flushed_ = true;
  } else if (relaxed_.any) {
    counters_.flushes_relaxed.add();
    tlb_.advance();  // before other vCPUs may be told: one that faults now finds its own generation old
    tlb_.flush_relaxed(relaxed_.request());
    flushed_ = true;
  }
  strict_.clear();
  relaxed_.clear();
}

void FlushBatch::commit() {
  flush();
  if (!flushed_) counters_.flushes_avoided.add();
  flushed_ = false;
  for (const Frames& f : freed_frames_) frames_.free(f.gpa, f.pages);
  freed_frames_.clear();
  for (Gpa table : freed_tables_) {
    tables_.retire(table);
    counters_.tables_freed.add();
  }
  freed_tables_.clear();
}

}  // namespace ramet::mm
