// The core of an address space: its regions, tables and frames, and the lock under which they change. The parts that
// work on it (address_space_impl.hpp) keep their own state.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "guest-mm/address_space.hpp"
#include "guest-mm/flush.hpp"
#include "guest-mm/frame_pool.hpp"
#include "guest-mm/page_table.hpp"
#include "guest-mm/pin_book.hpp"
#include "guest-mm/region_map.hpp"
#include "guest-mm/space_lock.hpp"
#include "guest-mm/table_pool.hpp"

namespace ramet::mm {

// Counts frames that faults without the lock have taken and not yet mapped. At the bound such faults go the classic
// way, so that many at once cannot hold all free frames without mapping any.
class FramesInFlight {
 public:
  // False if the count would exceed `most`; then nothing is counted.
  bool take(std::uint64_t frames, std::uint64_t most) {
    if (count_.fetch_add(frames, std::memory_order_relaxed) + frames <= most) return true;
    give(frames);
    return false;
  }
  void give(std::uint64_t frames) { count_.fetch_sub(frames, std::memory_order_relaxed); }
  std::uint64_t count() const { return count_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> count_{0};  // relaxed: a bound, it orders nothing
};

// Invariants, which hold whenever the lock is free; AddressSpace::audit() checks them:
//   every entry of the guest lies inside one region, and allows nothing that the region does not;
//   a frame of the private bank is in the pool, or mapped by one entry, or held by pins alone;
//   no entry is both writable and executable; an entry whose frame other VMs can map is not writable,
//   unless the frame was pinned before they could.
// A function whose name ends in _locked is called with the lock held.
struct SpaceCore {
  SpaceCore(const AddressSpace::Config& c, Memory& m, Tlb& t, Counters& n)
      : config(c), memory(m), tlb(t), counters(n), regions(c.start, c.mmap_top, c.max_regions) {}
  // Makes the frame pool, the pin book and an empty table. Once, before anything else. Errors: NoMemory.
  Result<> begin();

  // Changed only by adopt() and restore(), before a vCPU runs, and by reset(), while none does.
  AddressSpace::Config config;
  Memory& memory;
  Tlb& tlb;
  Counters& counters;
  mutable SpaceLock lock;
  // Made by begin() and never replaced. Their declarations say what needs the lock.
  std::unique_ptr<FramePool> frames;
  std::unique_ptr<PinBook> pins;
  std::unique_ptr<TablePool> tables;
  std::unique_ptr<PageTable> table;
  RegionMap regions;
  DeferredTables deferred RAMET_GUARDED_BY(address_space_lock);
  FramesInFlight in_flight;
  Merger* merger = nullptr;  // merges uniform tables; set once, before begin()

  FlushParts flush_parts() { return {tlb, *frames, pins.get(), counters, config.relaxed_flushes}; }
  // Takes the lock, for as long as the batch lives. Not analysed inside: the batch that holds the lock is handed out.
  FlushBatch locked() RAMET_ACQUIRE(address_space_lock) RAMET_NO_THREAD_SAFETY_ANALYSIS {
    return FlushBatch(lock, flush_parts(), *tables, deferred, merger);
  }

  Gva untagged(Gva address) const { return address & ~config.tag_bits; }
  // Whether the range is page-aligned, not empty and inside what a program may use. Removes the tag from the address
  // and rounds the length up to pages.
  bool user_range(Gva& address, std::uint64_t& length) const;
  // The bound on frames in flight.
  std::uint64_t most_in_flight() const {
    return config.speculative_frames ? config.speculative_frames : frames->total() / 8;
  }
  // Splits leaves, and unshares tables, that reach across an end of the range. Errors: NoMemory.
  Result<> split_ends_locked(Gva start, Gva end, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  // Undoes the seals of layers that have gone. True if there were any.
  bool thaw_locked() RAMET_REQUIRES(address_space_lock);
};

}  // namespace ramet::mm
