// FlushBatch: what one operation takes from the guest (Linux: mmu_gather). Entries are changed first;
// then every vCPU drops the old ones; only then are frames, tables and backings given to somebody else.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "arch/entry.hpp"
#include "guest-mm/counters.hpp"
#include "guest-mm/frame_pool.hpp"
#include "guest-mm/table_pool.hpp"
#include "guest-mm/tlb.hpp"

namespace ramet::mm {

class Backing;

// Tables that merges took out of the tree. Processors may go on walking them, which is right as long as their pages
// are nothing else: they ride along with the next strict flush, and no vCPU is kicked for them. With the
// address-space lock.
struct DeferredTables {
  static constexpr std::size_t kMany = 64;  // so many are worth a flush of their own
  std::vector<Gpa> merged, changed;         // the tables, and those that led to them
};

class FlushBatch {
 public:
  // Without `relaxed` every flush is strict (to see what the technique is worth).
  FlushBatch(Tlb& tlb, FramePool& frames, TablePool& tables, DeferredTables& deferred, bool relaxed, Counters& counters)
      : tlb_(tlb), frames_(frames), tables_(tables), deferred_(deferred), relaxed_flushes_(relaxed), counters_(counters) {}
  // For a fault without the address-space lock: it leaves deferred tables alone, and frees frames only.
  void without_lock() { locked_ = false; }
  // Whoever fills a batch commits it, on every path, under the address-space lock, or see without_lock(). Backings are
  // dropped here, so a batch is declared before the lock is taken: their destructors may wait for the machine.
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
  // A table became a leaf that says the same: see DeferredTables.
  void merged(Gpa table, Gpa parent);
  // The table of that level around the address could be a leaf. For AddressSpace, which decides whether it shall.
  struct Uniform {
    Gva at;
    arch::Level level;
  };
  void uniform(Gva at, arch::Level level) { uniform_.push_back({at, level}); }
  std::vector<Uniform> take_uniform() { return std::exchange(uniform_, {}); }
  // All deferred tables go with this batch.
  void settle_deferred() { settle_ = true; }
  void keep(std::shared_ptr<Backing> backing) { backings_.push_back(std::move(backing)); }
  // The bank is the machine's no more, once the flush is done and the lock is free: it may wait for vCPUs.
  void detach(Memory& memory, std::shared_ptr<Bank> bank) { memory_ = &memory, banks_.push_back(std::move(bank)); }

  bool pending() const { return strict_.any || relaxed_.any || settle_ || !freed_frames_.empty() || !freed_tables_.empty(); }

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
  DeferredTables& deferred_;
  const bool relaxed_flushes_;
  Counters& counters_;
  Pending strict_, relaxed_;
  bool flushed_ = false, settle_ = false, locked_ = true;
  std::vector<Uniform> uniform_;
  std::vector<Frames> freed_frames_;
  std::vector<Gpa> freed_tables_;
  std::vector<std::shared_ptr<Backing>> backings_;
  Memory* memory_ = nullptr;
  std::vector<std::shared_ptr<Bank>> banks_;
};

}  // namespace ramet::mm
