// What one operation takes from the guest (Linux: mmu_gather). Entries are changed first; then every vCPU drops the old
// ones; only then are frames, tables and backings released.
//
// No flush can be forgotten: entries are changed by way of a batch alone, and both kinds of batches commit at their
// end. Capacity is reserved before an entry changes: if there is no memory for that, the entry has not changed.
//   FlushBatch        owns the address-space lock while it lives, and may take all there is
//   SpeculativeFlush  of a fault without that lock: entries of one table, and frames
//
// Tlb::flush() is called in one place, EntryFlush::flush(), which is called by:
//   FlushBatch: commit(), finish() and its end; mremap, migration and restore_root() in between. No table lock is held.
//   Walker::write() (break-before-make) and Walker::replace_leaves(): with the lock of the entry's table; in a fault
//   without the address-space lock, within its rcu::Reader as well.
//   The end of a SpeculativeFlush: within that rcu::Reader.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "arch/entry.hpp"
#include "guest-mm/counters.hpp"
#include "guest-mm/frame_pool.hpp"
#include "guest-mm/pin_book.hpp"
#include "guest-mm/rcu.hpp"
#include "guest-mm/reserved_list.hpp"
#include "guest-mm/space_lock.hpp"
#include "guest-mm/table_pool.hpp"
#include "guest-mm/tlb.hpp"

namespace ramet::mm {

class Backing;
class FlushBatch;

// Tables that merges took out of the tree. Processors may go on walking them, which is right as long as their pages
// are used for nothing else. They are released with the next strict flush, so that no vCPU is kicked for them. Used
// with the address-space lock.
struct DeferredTables {
  static constexpr std::size_t kMany = 64;  // this many are worth a flush of their own
  std::vector<Gpa> merged, changed;  // the tables, and those that led to them
};

// What all batches of a VM work with; it outlives them.
struct FlushParts {
  Tlb& tlb;
  FramePool& frames;
  PinBook* pins;  // null: nothing is ever pinned
  Counters& counters;
  bool relaxed;  // off: every flush is strict (to see what the technique is worth)
};

// The flushes and frames that changes of entries have left to do; the base of both kinds of batches.
class EntryFlush {
 public:
  EntryFlush(const EntryFlush&) = delete;
  EntryFlush& operator=(const EntryFlush&) = delete;

  // Reserves capacity for that many changed entries and released tables, so that the calls below cannot fail for them.
  // Throws std::bad_alloc; the batch is then as it was.
  virtual void reserve(std::size_t changes);
  // An entry for [start, end) in `table` lost something: presence, a permission or its frame. Strict.
  void lost(Gva start, Gva end, Gpa table);
  // An entry for [start, end) in `table` only gained permission. Relaxed.
  void gained(Gva start, Gva end, Gpa table);
  // Frames to be released once the flush is done.
  void release_frames(Gpa gpa, std::uint64_t pages);

  bool pending() const { return strict_.any || relaxed_.any || !freed_frames_.empty(); }
  // Flushes what was collected so far, releases nothing: the middle of break-before-make.
  void flush();

 protected:
  explicit EntryFlush(const FlushParts& parts) : parts_(parts) {}
  ~EntryFlush() = default;  // derived classes commit in theirs
  // As reserve(), and for `riding` deferred tables, each with the table that led to it.
  void reserve(std::size_t changes, std::size_t riding);
  // Flushes, then releases the frames.
  void commit_entries();
  // Called before a flush: adds the deferred tables, if they go with it.
  virtual void ride_along() {}

  // More ranges than these cost more to name than dropping everything.
  static constexpr std::size_t kMaxRanges = 64;
  struct Pending {
    ReservedList<Range, 8> ranges;
    ReservedList<Gpa, 16> tables;
    bool everything = false;
    bool any = false;
    bool frees_tables = false;
    void add(Gva start, Gva end, Gpa table);
    FlushRequest request();
    void clear();
  };
  const FlushParts parts_;
  Pending strict_, relaxed_;

 private:
  struct Frames {
    Gpa gpa;
    std::uint64_t pages;
  };
  bool flushed_ = false;
  ReservedList<Frames, 16> freed_frames_;
};

// The batch of a fault without the address-space lock. It can release frames and nothing that the lock guards: no table
// is freed, and deferred tables stay deferred.
class SpeculativeFlush final : public EntryFlush {
 public:
  explicit SpeculativeFlush(const FlushParts& parts) : EntryFlush(parts) {}
  ~SpeculativeFlush();
};

// Decides whether uniform tables become leaves; implemented by Merges.
class Merger {
 public:
  // The table of that level around the address is uniform, or was.
  virtual void merge_locked(Gva, arch::Level, FlushBatch&) RAMET_REQUIRES(address_space_lock) = 0;

 protected:
  ~Merger() = default;
};

// Owns the address-space lock while it lives. Between a change of an entry and commit(), the frame or table that the
// entry led to can still be used through old translations, so the batch keeps it until the flush is done.
class RAMET_SCOPED_CAPABILITY FlushBatch final : public EntryFlush {
 public:
  // Takes the lock. Without a merger nothing merges.
  FlushBatch(SpaceLock& lock, const FlushParts& parts, TablePool& tables, DeferredTables& deferred, Merger* merger)
      RAMET_ACQUIRE(address_space_lock)
      : EntryFlush(parts), lock_(lock), tables_(tables), deferred_(deferred), merger_(merger) {}
  // Commits what is left, gives the lock back, and only then releases backings and banks. Merges as far as there is
  // memory.
  ~FlushBatch() RAMET_RELEASE();

  void reserve(std::size_t changes) RAMET_REQUIRES(address_space_lock) override;
  void release_table(Gpa gpa) RAMET_REQUIRES(address_space_lock);
  // A table became a leaf that says the same: see DeferredTables.
  void merged(Gpa table, Gpa parent) RAMET_REQUIRES(address_space_lock);
  // The table of that level around the address could be a leaf: for the merger, when the batch is committed.
  void uniform(Gva at, arch::Level level) { uniform_.push_back({at, level}); }
  // All deferred tables are released with this batch.
  void take_deferred() { take_deferred_ = true; }
  // Released without the lock: the destructors of backings may wait for the machine.
  void keep(std::shared_ptr<Backing> backing) { held().backings.push_back(std::move(backing)); }
  // Regions that faults without the lock may still look at: their grace period is waited for without the lock, too.
  void release_regions(rcu::Retired regions) { held().regions.push_back(std::move(regions)); }
  // Detaches the bank from the machine once the flush is done and the lock is free: that may wait for vCPUs.
  void detach(Memory& memory, std::shared_ptr<Bank> bank) {
    held().memory = &memory;
    held().banks.push_back(std::move(bank));
  }

  bool pending() const { return EntryFlush::pending() || take_deferred_ || !freed_tables_.empty(); }
  // Merges, flushes, then releases frames and tables. The batch may be used again afterwards.
  void commit() RAMET_REQUIRES(address_space_lock);
  // Merges, and commits if there is anything to flush or to release.
  void finish() RAMET_REQUIRES(address_space_lock) {
    if (!uniform_.empty()) merge_uniform();
    if (pending()) commit();
  }

 private:
  struct Uniform {
    Gva at;
    arch::Level level;
  };
  struct Held {
    ~Held();
    std::vector<rcu::Retired> regions;
    std::vector<std::shared_ptr<Backing>> backings;
    Memory* memory = nullptr;
    std::vector<std::shared_ptr<Bank>> banks;
  };
  void merge_uniform() RAMET_REQUIRES(address_space_lock);
  void commit_all() RAMET_REQUIRES(address_space_lock);
  void ride_along() RAMET_REQUIRES(address_space_lock) override;
  Held& held() {
    if (!held_) held_ = std::make_unique<Held>();
    return *held_;
  }
  std::unique_ptr<Held> held_;  // declared before lock_, so that it is destroyed after the lock was given back
  const SpaceGuard lock_;
  TablePool& tables_;
  DeferredTables& deferred_ RAMET_GUARDED_BY(address_space_lock);
  Merger* const merger_;
  bool take_deferred_ = false;
  std::vector<Uniform> uniform_;
  TableList freed_tables_;
};

}  // namespace ramet::mm
