// Faults: fault.cpp is the entry of both ways and counts them, speculative_fault.cpp the way without the address-space
// lock, classic_fault.cpp the one with it, fault_window.cpp what both do where nothing is mapped, populate.cpp a whole
// range at once.
#pragma once

#include <optional>

#include "guest-mm/copy_on_write.hpp"
#include "guest-mm/entry_rules.hpp"
#include "guest-mm/fault_around.hpp"
#include "guest-mm/fault_kinds.hpp"
#include "guest-mm/shared_banks.hpp"

namespace ramet::mm {

// Has no state: a fault begins and ends in one call, and the frames in flight are the core's. An address is looked up
// once for each way that is tried; what was found is handed on (Found, Window).
class Faults {
 public:
  Faults(SpaceCore& core, const EntryRules& rules, SharedBanks& banks, CopyOnWrite& copies)
      : core_(core), rules_(rules), banks_(banks), copies_(copies) {}

  // Either way. Errors: as AddressSpace::fault().
  Result<FaultOutcome> fault(Gva address, Access) RAMET_EXCLUDES(address_space_lock);
  // The same for a fetch, where fetches need syncs; measures what it costs (ExecCosts::fault).
  Result<FaultOutcome> timed_fault(Gva address) RAMET_EXCLUDES(address_space_lock);
  // The classic way: makes `address` accessible, or says why not; counts.
  Result<FaultOutcome> fault_locked(Gva address, Access, bool by_vmm, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  // Maps all of [start, end). Errors as fault(); what was mapped before the error stays.
  Result<> populate(Gva start, Gva end, Access) RAMET_EXCLUDES(address_space_lock);

 private:
  using Level = PageTable::Level;
  using Published = PageTable::Published;
  Result<FaultOutcome> count(Result<Resolved>);

  // --- without the lock ---
  // nullopt: the fault takes the classic way.
  std::optional<Resolved> speculative_fault(Gva address, Access) RAMET_EXCLUDES(address_space_lock);
  std::optional<Settled> try_speculative(Gva address, Access);
  Result<Settled> map_absent(const Found&);
  // Puts an empty table of pages where there is none. TableGone: the fault takes the classic way.
  Published add_table(const Found&, const AroundPlan&, Gpa& table);

  // --- with the lock ---
  Result<FaultOutcome> classic_fault(Gva address, Access) RAMET_EXCLUDES(address_space_lock);
  // For a fault without the lock, which found that the table of that level could be a leaf now.
  void merge_found(Gva address, Level) RAMET_EXCLUDES(address_space_lock);
  Result<Resolved> resolve_locked(Gva address, Access, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  Result<Resolved> resolve_present_locked(const Found&, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  // The region for a fault; a region that grows down is extended if the fault is just below it. Null: none.
  const Region* region_for_fault_locked(Gva address) RAMET_REQUIRES(address_space_lock);
  // Errors: Invalid (look the address up again) besides those of fault().
  Result<Settled> map_absent_locked(const Found&, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  std::optional<Settled> map_blocks_locked(const Found&, const AroundPlan&, FlushBatch&)
      RAMET_REQUIRES(address_space_lock);
  Result<Settled> map_pages_locked(const Found&, const AroundPlan&, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  // One step of populate(): returns where to go on.
  Result<Gva> populate_piece_locked(Gva start, Gva end, Access, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  Result<Gva> populate_absent_locked(const Found&, Gva end, FlushBatch&) RAMET_REQUIRES(address_space_lock);

  // --- both ways ---
  AroundPlan plan(const Found&, Gva end) const;
  static Result<Gva> end_of_object(const Region&, Gva address, bool recent = false);
  // A range in one table whose absent slots are to be mapped; `found.address` lies in it.
  struct Window {
    const Found& found;
    Level level;
    Gpa table;
    Gva start, end;
    // Which pages the access or system call asked for; the others' entries are marked `ahead`.
    enum class Asked : std::uint8_t { All, Page, None } asked = Asked::All;
  };
  // Takes frames for the window and publishes them. Errors: NoMemory (no frame, or with a guard over the budget), Io;
  // NotMapped: the table is not the space's own any more.
  Result<PageTable::Outcome> map_window(const Window&);
  struct Extents;
  Result<> take_frames(const Window&, Extents&);
  Result<> take_gap(const Window&, const Range&, Extents&);
  Result<FramePool::Run> take_run(const Window&, Gva at, std::uint64_t pages, Fill);
  // Counts what has become of a window.
  Settled settled(const Region&, const PageTable::Outcome&, Level);
  static void note_blocks(const Region&, Gva start, const PageTable::Outcome&);
  static Gva end_of_blocks(const AroundPlan&, Gva start);

  SpaceCore& core_;
  const EntryRules& rules_;
  SharedBanks& banks_;
  CopyOnWrite& copies_;
};

}  // namespace ramet::mm
