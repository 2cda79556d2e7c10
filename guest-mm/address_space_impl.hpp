// Inside of the address space, for the files that implement it: address_space.cpp (map, unmap, kernel
// mappings), protect.cpp, remap.cpp, advise.cpp, fault.cpp, user_access.cpp, audit.cpp.
#pragma once

#include <memory>
#include <mutex>

#include "guest-mm/address_space.hpp"
#include "guest-mm/flush.hpp"
#include "guest-mm/frame_pool.hpp"
#include "guest-mm/page_table.hpp"
#include "guest-mm/region_map.hpp"
#include "guest-mm/table_pool.hpp"

namespace ramet::mm {

// Functions whose name ends in _locked are called with `lock` held.
struct AddressSpace::Impl {
  Impl(const Config& c, Memory& m, Tlb& t, Counters& n)
      : config(c), memory(m), tlb(t), counters(n), regions(c.start, c.mmap_top, c.max_regions) {}

  const Config config;
  Memory& memory;
  Tlb& tlb;
  Counters& counters;

  mutable std::mutex lock;
  // All below: under lock.
  std::unique_ptr<FramePool> frames;
  std::unique_ptr<TablePool> tables;
  std::unique_ptr<PageTable> table;
  RegionMap regions;
  std::uint64_t kernel_frames = 0;

  FlushBatch batch() { return FlushBatch(tlb, *frames, *tables, counters); }

  // Page-aligned, not empty, inside what a program may use. Rounds the length up.
  bool user_range(Gva address, std::uint64_t& length) const;
  // Cuts leaves at both ends, so that what follows changes whole ones. Errors: NoMemory.
  Result<> split_ends_locked(Gva start, Gva end, FlushBatch&);
  // Takes away regions, entries and frames. Errors: NoMemory (a block to split, too many regions).
  Result<> unmap_locked(Gva start, Gva end, FlushBatch&);
  // A place for a new mapping. Errors: NoMemory, NotPermitted, Exists, Invalid.
  Result<Gva> place_locked(const MapRequest&, std::uint64_t length);

  // What an entry of the region may do after an access of that kind.
  static PageTable::Attributes attributes(const Region&, Access);
  static bool allows(const PageTable::Attributes&, Access);
  // What becomes of a leaf when its region gets another protection.
  static PageTable::Change protection(const Region&, const PageTable::Leaf&);
  // How a fault ended, for the counters.
  enum class Resolved : std::uint8_t { Zero, File, Flipped, Spurious };
  // Makes `address` accessible, or says why not; counts.
  Result<FaultOutcome> fault_locked(Gva address, Access, bool by_vmm, FlushBatch&);
  Result<Resolved> resolve_locked(Gva address, Access, FlushBatch&);
  // The region for a fault, grown downwards if that is what it takes.
  Region* region_for_fault_locked(Gva address);
  Result<Resolved> map_absent_locked(Region&, Gva address, Access, const PageTable::Leaf&, FlushBatch&);
  AroundPlan plan_locked(const Region&, Gva address, Gva end, const PageTable::Leaf&) const;
  static Result<Gva> end_of_object(const Region&, Gva address);
  bool takes_blocks(const Region&) const;
  // 4 KiB entries for what is absent in [start, end), which lies inside one 2 MiB.
  Result<> map_pages_locked(Region&, Gva start, Gva end, Access, FlushBatch&);
  Result<> map_run_locked(Region&, Gva start, std::uint64_t pages, Access, FlushBatch&);
  // Up to `count` blocks from `start`; returns how many there are now. 0: no frames or no table.
  unsigned map_blocks_locked(Region&, Gva start, unsigned count, Access, FlushBatch&);
  // Maps all of [start, end). Errors as fault(); what was mapped before the error stays.
  Result<> populate(Gva start, Gva end, Access, bool by_vmm);

  // A page the VMM itself is about to use: its leaf, faulted in if need be.
  Result<PageTable::Leaf> touch_locked(Gva address, Access, FlushBatch&);
  // The host memory behind `address`, up to `length` bytes as far as it is in one piece.
  struct Piece {
    std::span<std::byte> bytes;
    bool shared = false;  // of a file somebody else may truncate: touching it may raise SIGBUS
    Gpa gpa = 0;
  };
  Result<Piece> piece_locked(Gva address, std::uint64_t length, Access, FlushBatch&);
};

}  // namespace ramet::mm
