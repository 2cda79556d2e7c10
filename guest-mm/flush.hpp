// FlushBatch: what one operation takes from the guest (Linux: mmu_gather). Entries are changed first;
// then every vCPU drops the old ones; only then are frames, tables and backings given to somebody else.
#pragma once

#include <memory>
#include <vector>

#include "guest-mm/counters.hpp"
#include "guest-mm/frame_pool.hpp"
#include "guest-mm/table_pool.hpp"
#include "guest-mm/tlb.hpp"

namespace ramet::mm {

class Backing;

class FlushBatch {
 public:
  FlushBatch(Tlb& tlb, FramePool& frames, TablePool& tables, Counters& counters)
      : tlb_(tlb), frames_(frames), tables_(tables), counters_(counters) {}
  // Whoever fills a batch commits it, on every path, under the address-space lock. Backings are dropped
  // here, so a batch is declared before the lock is taken: their destructors may wait for the machine.
  ~FlushBatch();
  FlushBatch(const FlushBatch&) = delete;
  FlushBatch& operator=(const FlushBatch&) = delete;

  // An entry for [start, end) in `table` lost something: presence, a permission or its frame. Strict.
  void lost(Gva start, Gva end, Gpa table);
  // It only gained permission. Relaxed.
  void gained(Gva start, Gva end, Gpa table);
  // To be released once the flush is done.
  void release_frames(Gpa gpa, std::uint64_t pages);
  void release_table(Gpa gpa);
  void keep(std::shared_ptr<Backing> backing) { backings_.push_back(std::move(backing)); }

  bool pending() const { return strict_.any || relaxed_.any; }

  // Flushes what was collected so far, releases nothing: the middle of break-before-make.
  void flush();
  // Flushes, then releases frames and tables. The batch may be filled again afterwards.
  void commit();

 private:
  struct Frames {
    Gpa gpa;
    std::uint64_t pages;
  };
  // More ranges than these cost more to name than dropping everything.
  static constexpr std::size_t kMaxRanges = 64;
  struct Pending {
    std::vector<FlushRequest::Range> ranges;
    std::vector<Gpa> tables;
    bool everything = false;
    bool any = false;
    void add(Gva start, Gva end, Gpa table);
    FlushRequest request();
    void clear();
  };
  Tlb& tlb_;
  FramePool& frames_;
  TablePool& tables_;
  Counters& counters_;
  Pending strict_, relaxed_;
  bool flushed_ = false;
  std::vector<Frames> freed_frames_;
  std::vector<Gpa> freed_tables_;
  std::vector<std::shared_ptr<Backing>> backings_;
};

}  // namespace ramet::mm
