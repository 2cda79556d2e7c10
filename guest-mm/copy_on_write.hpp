// Copy on write: a write to a page that belongs to a layer gets a frame of the VM's own with the same contents. Pages
// that will probably be written soon are copied with it.
#pragma once

#include <array>
#include <atomic>
#include <optional>
#include <span>
#include <vector>

#include "guest-mm/entry_rules.hpp"
#include "guest-mm/fault_kinds.hpp"

namespace ramet::mm {

// The pages that were written first after earlier freezes, as of a stack or of malloc's data, and probably will be
// after the next one. Hints: relaxed; one may be lost, or be there twice.
class HotPages {
 public:
  void note(Gva page);
  std::vector<Gva> at_freeze();

 private:
  static constexpr unsigned kMost = 8, kEachTime = 4;
  std::array<std::atomic<Gva>, kMost> pages_{};
  std::atomic<unsigned> next_{0}, since_freeze_{0};
};

// A frame that other VMs can map is never written: its copy is complete before an entry leads to it, and no processor
// holds the old entry any more when the new one can be used (Walker::replace_leaves).
class CopyOnWrite {
 public:
  CopyOnWrite(SpaceCore& core, const EntryRules& rules) : core_(core), rules_(rules) {}

  // For a fault without the lock, within its rcu::Reader: copies the page, which was found present and read-only.
  // nullopt: the fault takes the classic way. Flushes before it returns, without the address-space lock, as
  // tlb.hpp allows.
  std::optional<Settled> try_copy(const Found&);
  // The same with the lock. False: the entry is no longer one to copy; look it up again. Errors: NoMemory.
  Result<bool> copy_locked(const Region&, Gva address, FlushBatch&) RAMET_REQUIRES(address_space_lock);
  HotPages& hot() { return hot_; }

 private:
  // Copies, not mapped yet, of pages of one table.
  struct Copies {
    static constexpr unsigned kMost = 64;
    std::array<PageTable::Replacement, kMost> items;
    unsigned count = 0;
    std::uint64_t counted = 0;  // frames in flight
    bool in_order = true;       // made by copy_in_order()
    std::span<const PageTable::Replacement> all() const { return {items.data(), count}; }
  };
  // The pages around `page` that are copied ahead because many of them have been copied; empty: none.
  Range cluster(const Region&, const PageTable::Leaf& page) const;
  // `limited`: within the bound on frames in flight. Errors: NoMemory.
  Result<> make_copies(const Found&, bool limited, Copies&);
  Result<> copy_cluster(const Found&, const Range& among, Copies&);
  Result<> copy_in_order(const Found&, Gva end, Copies&);
  bool wants_copy(const Found&, const PageTable::Leaf& seen) const;
  Result<> copy_one(const Found&, const PageTable::Leaf& seen, Copies&);
  void give_back(const Copies&);
  void note_copied(const Region&, const Copies&);

  SpaceCore& core_;
  const EntryRules& rules_;
  HotPages hot_;
};

}  // namespace ramet::mm
