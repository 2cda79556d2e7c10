// Migration: pages go to other frames while the guest runs (migrate.cpp).
#pragma once

#include <optional>
#include <vector>

#include "guest-mm/entry_rules.hpp"

namespace ramet::mm {

// A page that moves is closed to writes before it is copied, and absent between its old frame and its new one: the old
// frame is never written when the new one may be read. Pages that are pinned, or whose frame is not exclusive, stay.
class Migration {
 public:
  using Request = AddressSpace::MigrateRequest;
  using Migrated = AddressSpace::Migrated;
  Migration(SpaceCore& core, const EntryRules& rules) : core_(core), rules_(rules) {}

  // See AddressSpace. Precondition: the range is checked.
  Migrated migrate(const Request&) RAMET_EXCLUDES(address_space_lock);

 private:
  using Level = PageTable::Level;
  // The leaves of one table that move, as they were found.
  struct Moving {
    struct Page {
      PageTable::Leaf leaf;
      Gpa to = 0;  // 0: it stays
    };
    std::vector<Page> pages;
    Level level = Level::Pte;
    std::optional<FramePool::Run> run = {};  // where all small pages of a table go, to be a block
    std::uint64_t count() const { return pages.size() * arch::span_of(level) / kPageSize; }
  };
  // The state of one migration across its pieces: the present region, which of the region's entries are deferred, and
  // the counts so far.
  struct Journey {
    const Request& request;
    Migrated done = {};
    const Region* region = nullptr;  // to be compared only: the region may have been freed
    Level level = Level::Pte;
    std::uint32_t every = 0;  // which entries withhold execution, see EntryRules::defers_exec()
  };
  void piece_locked(Gva start, Gva end, Journey&, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  Moving to_move_locked(Gva start, Gva end, Journey&) RAMET_REQUIRES(address_space_lock);
  std::vector<PageTable::Replacement> copies_locked(Gva start, Moving&, Journey&) RAMET_REQUIRES(address_space_lock);
  std::optional<Gpa> place_for_locked(Gva start, const Moving&, const PageTable::Leaf&, const Request&)
      RAMET_REQUIRES(address_space_lock);
  void set_write_locked(const PageTable::Leaf&, bool write, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  bool held(const PageTable::Leaf&) const;  // pinned, or in the pin bank

  SpaceCore& core_;
  const EntryRules& rules_;
  std::uint64_t pieces_ RAMET_GUARDED_BY(address_space_lock) = 0;  // so far, of all migrations
};

}  // namespace ramet::mm
