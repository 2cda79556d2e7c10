// The core of an address space: its regions, tables and frames, and the lock under which they change. What is done with
// them is in parts that stand on it (address_space_impl.hpp), each with the state that is its own.
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

// Frames that faults without the lock have taken and not yet mapped. At its bound such faults go the classic way, so
// that many at once cannot take the last frames from those that map what they took.
class FramesInFlight {
 public:
  // False: it would be more than `most`, and nothing is counted.
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

// What is so whenever the lock is free; AddressSpace::audit() recounts it:
//   every entry of the guest's lies inside one region, and allows nothing that the region does not;
//   a frame of the private bank is in the pool, or mapped by one entry, or held by pins alone;
//   no entry is both writable and executable; none is writable whose frame others see, but for frames that were pinned
//   before anybody else could see them.
// A function whose name ends in _locked is called with the lock held.
struct SpaceCore {
  SpaceCore(const AddressSpace::Config& c, Memory& m, Tlb& t, Counters& n)
      : config(c), memory(m), tlb(t), counters(n), regions(c.start, c.mmap_top, c.max_regions) {}
  // Frames, books and an empty table. Once, before anything else. Errors: NoMemory.
  Result<> begin();

  AddressSpace::Config
      config;  // changed by adopt() and restore() alone, before a vCPU runs, and by reset(), while none does
  Memory& memory;
  Tlb& tlb;
  Counters& counters;
  mutable SpaceLock lock;
  // Made by begin(), and the same ever after. They say themselves what needs the lock.
  std::unique_ptr<FramePool> frames;
  std::unique_ptr<PinBook> pins;
  std::unique_ptr<TablePool> tables;
  std::unique_ptr<PageTable> table;
  RegionMap regions;
  DeferredTables deferred RAMET_GUARDED_BY(address_space_lock);
  FramesInFlight in_flight;
  Merger* merger = nullptr;  // who is told of tables that could be a leaf; set once, with begin()

  FlushParts flush_parts() { return {tlb, *frames, pins.get(), counters, config.relaxed_flushes}; }
  // Takes the lock, for as long as the batch lives. Not analysed inside: the batch that holds the lock is handed out.
  FlushBatch locked() RAMET_ACQUIRE(address_space_lock) RAMET_NO_THREAD_SAFETY_ANALYSIS {
    return FlushBatch(lock, flush_parts(), *tables, deferred, merger);
  }

  Gva untagged(Gva address) const { return address & ~config.tag_bits; }
  // Page-aligned, not empty, inside what a program may use. Rounds the length up.
  bool user_range(Gva& address, std::uint64_t& length) const;
  // Most frames in flight.
  std::uint64_t most_in_flight() const {
    return config.speculative_frames ? config.speculative_frames : frames->total() / 8;
  }
  // Cuts leaves at both ends, so that what follows changes whole ones. Errors: NoMemory.
  Result<> split_ends_locked(Gva start, Gva end, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  // Undoes what was sealed for layers that nobody stands on any more. True if there was any.
  bool thaw_locked() RAMET_REQUIRES(address_space_lock);
};

}  // namespace ramet::mm
