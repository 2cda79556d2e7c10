// Inside of the address space, for the files that implement it: address_space.cpp (map, unmap, kernel
// mappings), freeze.cpp, cow.cpp, protect.cpp, remap.cpp, advise.cpp, fault.cpp, speculative_fault.cpp, fill.cpp, merge.cpp, linear_map.cpp,
// user_access.cpp, audit.cpp.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "guest-mm/address_space.hpp"
#include "guest-mm/flush.hpp"
#include "guest-mm/frame_pool.hpp"
#include "guest-mm/page_table.hpp"
#include "guest-mm/region_map.hpp"
#include "guest-mm/table_pool.hpp"

namespace ramet::mm {

// The pages that were the first to be written after freezes: a stack, a heap's books. They will be after the next one.
// Hints: relaxed, and nothing is wrong if one is lost or there twice.
class HotPages {
 public:
  void note(Gva page);
  std::vector<Gva> at_freeze();

 private:
  static constexpr unsigned kMost = 8, kEachTime = 4;
  std::array<std::atomic<Gva>, kMost> pages_{};
  std::atomic<unsigned> next_{0}, since_freeze_{0};
};

// Functions whose name ends in _locked are called with `lock` held.
struct AddressSpace::Impl final : Merger {
  using Level = PageTable::Level;
  Impl(const Config& c, Memory& m, Tlb& t, Counters& n)
      : config(c), memory(m), tlb(t), counters(n), regions(c.start, c.mmap_top, c.max_regions) {}

  Config config;                              // adopt() takes over the snapshot's
  Memory& memory;
  Tlb& tlb;
  Counters& counters;

  mutable SpaceLock lock;
  // All below: under lock, but for what speculative_fault() and dump() do within an rcu::Reader.
  std::unique_ptr<FramePool> frames;
  std::unique_ptr<PinBook> pins;
  // Odd while a freeze looks at the pins. Pairs by fences with pin_fast(): a pin is counted before the freeze looks, or
  // finds the sequence changed.
  SequenceCount freezing;
  std::unique_ptr<TablePool> tables;
  std::unique_ptr<PageTable> table;
  RegionMap regions;
  DeferredTables deferred RAMET_GUARDED_BY(address_space_lock);
  HotPages hot;
  std::optional<Gva> linear RAMET_GUARDED_BY(address_space_lock);                  // where the linear map begins
  std::vector<std::pair<Gva, Gva>> keep_4k RAMET_GUARDED_BY(address_space_lock);   // parts of it that stay in small pages
  std::vector<std::shared_ptr<Bank>> attached RAMET_GUARDED_BY(address_space_lock);  // of shared regions
  // Frames that faults without the lock have taken and not yet mapped. Relaxed: a bound, it orders nothing.
  std::atomic<std::uint64_t> in_flight{0};
  std::uint64_t migrations RAMET_GUARDED_BY(address_space_lock) = 0;               // pieces so far
  mutable std::atomic<std::uint32_t> turn{0}; // of defers_exec(). Relaxed: orders nothing

  FlushParts parts() { return {tlb, *frames, pins.get(), counters, config.relaxed_flushes}; }
  // Takes the lock, for as long as the batch lives. Not analysed inside: the batch that holds it is handed out.
  FlushBatch locked() RAMET_ACQUIRE(address_space_lock) RAMET_NO_THREAD_SAFETY_ANALYSIS { return FlushBatch(lock, parts(), *tables, deferred, this); }
  void merge_locked(Gva, arch::Level, FlushBatch&) RAMET_REQUIRES(address_space_lock) override;
  // Whether all these frames are the VM's own, or none is.
  bool one_kind(Gpa first, std::uint64_t span) const;
  // The VMM's own mappings, in the largest leaves. Errors: Exists, NoMemory.
  Result<> map_own_locked(Gva, Gpa, std::uint64_t length, Prot, bool user, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  // Where such a mapping may lie: page-aligned, not empty, above what a program may use, not writable and executable.
  bool own_range(Gva, Gpa, std::uint64_t length, Prot) const;
  bool machines_own(Gpa gpa, std::uint64_t length) const;
  Result<Gva> linear_locked(Gpa, std::uint64_t length) const RAMET_REQUIRES(address_space_lock);

  // Page-aligned, not empty, inside what a program may use. Rounds the length up.
  bool user_range(Gva& address, std::uint64_t& length) const;
  Gva untagged(Gva address) const { return address & ~config.tag_bits; }
  // Cuts leaves at both ends, so that what follows changes whole ones. Errors: NoMemory.
  Result<> split_ends_locked(Gva start, Gva end, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  // Takes away regions, entries and frames. Errors: NoMemory (a block to split, too many regions).
  Result<> unmap_locked(Gva start, Gva end, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  // The regions of a range whose entries have gone. What they hold goes with the batch.
  void remove_regions_locked(Gva start, Gva end, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  // A place for a new mapping. Errors: NoMemory, NotPermitted, Exists, Invalid.
  Result<Gva> place_locked(const MapRequest&, std::uint64_t length) RAMET_REQUIRES(address_space_lock);

  // What an entry of the region may do after an access of that kind: as the region says, and for a given frame.
  PageTable::Attributes attributes(const Region&, Access) const;
  PageTable::Attributes attributes(const Region&, Access, Gpa frame) const;
  // Which of a region's entries that are new for that reason withhold execution: 1: all, 0: none, n: every nth.
  std::uint32_t defers_exec(const Region&, MoveReason, Level) const;
  // The same of the next one that is mapped.
  bool defers_exec(const Region& region) const {
    const std::uint32_t every = defers_exec(region, MoveReason::Mapped, Level::Pte);
    return every == 1 || (every != 0 && turn.fetch_add(1, std::memory_order_relaxed) % every == 0);
  }
  static ExecHistory& history(const Region& region, Level level) { return level == Level::Pte ? region.pages_deferred : region.blocks_deferred; }
  // A fault is about to let somebody through there: if it was withheld, the history knows.
  static void note_granted(const Region& region, const PageTable::Leaf& leaf, Access access) {
    if (access == Access::Execute && leaf.attributes.deferred_exec) history(region, leaf.level).ran();
  }
  Result<FaultOutcome> timed_fault(Gva address);  // of a fetch
  Result<FaultOutcome> fault(Gva address, Access);
  ExecCosts exec_costs() const;
  // Of one table, or a block.
  struct Moving;
  // Of one migration: which regions it has come to, and which of their entries it defers.
  struct Deferring {
    const Region* region = nullptr;  // to be compared only: it may have gone since
    Level level = Level::Pte;
    std::uint32_t every = 0;
  };
  void migrate_locked(Gva start, Gva end, const MigrateRequest&, Deferring&, Migrated&, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  Moving to_move_locked(Gva start, Gva end, const MigrateRequest&, Migrated&) RAMET_REQUIRES(address_space_lock);
  std::vector<PageTable::Replacement> copies_locked(Gva start, Moving&, const MigrateRequest&, Deferring&, Migrated&) RAMET_REQUIRES(address_space_lock);
  void set_write_locked(const PageTable::Leaf&, bool write, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  bool held(const PageTable::Leaf&) const;  // by a device, or in the pin bank
  static bool allows(const PageTable::Leaf&, Access);
  // Whether a processor needs no fault for that access: one that does not set the access flag by itself faults on an entry without.
  static bool serves(const PageTable::Leaf& leaf, Access access) { return leaf.attributes.accessed && allows(leaf, access); }
  // What a fault makes of a leaf that does not serve the access, though the frame may.
  PageTable::Attributes upgraded(const Region&, const PageTable::Leaf&, Access) const;
  // Whether the program has used the page, as far as can be told (mincore). Anonymous memory.
  bool touched(const PageTable::Leaf&) const;
  // Whether nobody else must be kept from seeing what is written there.
  bool may_write(const Region&, Gpa frame) const;
  // A writable entry stays so though its frame is sealed: it was pinned when it was sealed, and no child has seen it.
  bool may_write(const Region& region, const PageTable::Leaf& leaf) const {
    return (!leaf.shared && leaf.attributes.write) || may_write(region, leaf.address);
  }
  // What becomes of a leaf when its region gets another protection.
  PageTable::Change protection(const Region&, const PageTable::Leaf&) const;
  // How a fault ended, for the counters.
  enum class Resolved : std::uint8_t { Zero, File, Flipped, Copied, Spurious };
  using Guard = PageTable::Guard;
  using Published = PageTable::Published;
  // Published::Done with how it ended, or why it has to be tried with the lock.
  struct Settled {
    Published how = Published::Done;
    Resolved resolved = Resolved::Spurious;
    std::optional<PageTable::Level> uniform = {};  // the table of that level around the address could be a leaf now
  };
  // Without the lock; nothing if it takes the classic way.
  std::optional<Resolved> speculative_fault(Gva address, Access);
  std::optional<Settled> try_speculative(Gva address, Access);
  // With it: makes `address` accessible, or says why not; counts.
  Result<FaultOutcome> fault_locked(Gva address, Access, bool by_vmm, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  Result<Resolved> resolve_locked(Gva address, Access, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  Result<FaultOutcome> count(Result<Resolved>);
  // The region for a fault, grown downwards if that is what it takes.
  const Region* region_for_fault_locked(Gva address) RAMET_REQUIRES(address_space_lock);

  // --- both ways: with a Guard of a region's sequence count, or with the lock and an empty one ---
  // With the lock, and so with a batch; without it there is none: what was absent needs no flush. Not analysed for that.
  Result<Settled> map_absent(const Region&, Gva address, Access, const PageTable::Leaf&, Guard, FlushBatch*) RAMET_NO_THREAD_SAFETY_ANALYSIS;
  AroundPlan plan(const Region&, Gva address, Gva end, const PageTable::Leaf&) const;
  static Result<Gva> end_of_object(const Region&, Gva address);
  bool takes_blocks(const Region&) const;
  // Frames for what is absent in [start, end), which lies inside one table of that level, published at once.
  struct Window {
    const Region& region;
    Gva address;
    Access access;
    Guard guard;
    PageTable::Level level;
    Gva start, end;
    std::optional<Gpa> table;  // where start and end lie, if it was looked up
    enum class Asked : std::uint8_t { All, Page, None } asked = Asked::All;  // for what of it; the rest is mapped ahead
  };
  // Errors: NoMemory (no frame, or with a guard over the budget), Io; NotMapped: there is no such table.
  Result<PageTable::Outcome> fill(const Window&);
  struct Runs;
  Result<> take_frames(const Window&, Gpa table, Runs&);
  Result<FramePool::Run> take_run(const Window&, Gpa table, Gva at, std::uint64_t pages, Fill);
  // A page of the VM's own, pinned without the lock; nothing if it takes the lock.
  std::optional<PinHold> pin_fast(Gva page, Access);
  // The same with it: faulted in, and copied if others see it. Errors as fault(). No frame: shared memory.
  Result<PageTable::Leaf> pin_locked(Gva page, Access, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  // Of one table. Errors as fault(), NoMemory.
  Result<> move_apart_locked(Gva start, Gva end, Access, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  // Precondition: the frames are ours alone, see pin_locked(), or of a shared region: those are not counted.
  PinHold hold_locked(Gpa first, Gva at, std::uint64_t bytes) RAMET_REQUIRES(address_space_lock);
  // What a freeze does about pinned frames: copies to be had, made, and put where children find them.
  struct PinnedPage {
    Gva at;
    Gpa frame, copy;
    Gpa table = 0;
    PageTable::Attributes attributes = {};
  };
  Result<std::vector<PinnedPage>> pinned_pages_locked(FlushBatch&) RAMET_REQUIRES(address_space_lock);
  void keep_pinned_locked(const std::vector<PinnedPage>&, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  // Those of the layers that something of ours still refers to.
  std::vector<Layer::Below> referred_to_locked(std::vector<Layer::Below>) const RAMET_REQUIRES(address_space_lock);
  bool was_reset RAMET_GUARDED_BY(address_space_lock) = false;  // refers again to all that memory.layer() does, though a layer of our own may not
  // Undoes what was sealed for layers that nobody stands on any more. True if there was any.
  bool thaw_locked() RAMET_REQUIRES(address_space_lock);
  // Maps a stretch of a layer's frames, in the largest leaves the region takes. Errors: Invalid, NoMemory.
  Result<> map_stretch_locked(const Region&, const Stretch&, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  // Takes what is marked do-not-fork out of what came with a snapshot. Errors: NoMemory.
  Result<> leave_out_locked(const Snapshot&, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  // The machine knows the bank of a shared region from now on. Errors: NoMemory.
  Result<> attach_locked(const Region&) RAMET_REQUIRES(address_space_lock);
  // The same for all of them, or for none. Errors: NoMemory.
  Result<> attach_all_locked(const std::vector<const Region*>&, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  // Banks of which no region is left go with the batch.
  void detach_locked(const Backing&, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  // Copies pages of the table around the address that others see as well, and maps the copies writable (cow.cpp).
  struct Copies;
  // Pages among which many have been copied: the others are, ahead.
  struct Crowd {
    Gva start = 0, end = 0;
    bool empty() const { return start == end; }
  };
  Crowd crowd(const Region&, const PageTable::Leaf& page) const;
  Result<> take_copies(const Region&, Gva address, const PageTable::Leaf&, bool limited, Copies&);
  void give_back(const Copies&);
  void note_copied(const Region&, const Copies&);
  std::optional<Settled> try_copy(const Region&, Gva address, const PageTable::Leaf&, Guard);
  // False: something was different from what was seen; look once more. Errors: NoMemory.
  Result<bool> copy_locked(const Region&, Gva address, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  // Maps all of [start, end). Errors as fault(); what was mapped before the error stays.
  Result<> populate(Gva start, Gva end, Access, bool by_vmm);

  // A page the VMM itself is about to use: its leaf, faulted in if need be.
  Result<PageTable::Leaf> touch_locked(Gva address, Access, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  // The host memory behind `address`, up to `length` bytes as far as it is in one piece.
  struct Piece {
    HostBytes bytes;
    bool shared = false;  // of an object that others may have as well
    Gpa gpa = 0;
  };
  Result<Piece> piece_locked(Gva address, std::uint64_t length, Access, FlushBatch&) RAMET_REQUIRES(address_space_lock);
};

}  // namespace ramet::mm
