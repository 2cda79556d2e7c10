// Region map: the regions of one address space in address order, split and merged as operations need,
// and the search for free ranges. Regions in the map do not change: they are replaced.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "guest-mm/region_tree.hpp"
#include "guest-mm/types.hpp"

namespace ramet::mm {

// find(), at_or_after(), next() and last_below() need the address-space lock or an rcu::Reader, which the analysis of
// locks cannot express; copies() needs neither; all other functions need the lock.
// Pointers stay valid until the map is changed (within a reader: until the reader leaves).
// Regions never overlap, and there are at most max_regions; neighbours that are alike are merged, unless either is
// seized. The sequence count of a seized region is odd until release() or change(), and for ever once it was taken out.
class RegionMap {
 public:
  // Free ranges are searched in [bottom, top), downwards.
  RegionMap(Gva bottom, Gva top, std::size_t max_regions) : bottom_(bottom), top_(top), max_(max_regions), hint_(top) {}
  // Other bounds from now on. Precondition: there is no region.
  void search_in(Gva bottom, Gva top) RAMET_REQUIRES(address_space_lock) {
    bottom_ = bottom, top_ = hint_ = top, skipped_ = 0;
  }

  const Region* find(Gva address) const;
  // First region that ends after `address`; null if none.
  const Region* at_or_after(Gva address) const { return tree_.at_or_after(address); }
  const Region* next(const Region& r) const { return tree_.at_or_after(r.end); }
  // Last region that starts below `address`; null if none.
  const Region* last_below(Gva address) const { return tree_.last_below(address); }
  std::size_t size() const RAMET_REQUIRES(address_space_lock) { return tree_.size(); }

  // Copies all regions in address order, as they were at one moment; without the lock. False: they changed meanwhile,
  // and `out` is of no use.
  bool copies(std::vector<Region>& out) const;

  bool free(Gva start, Gva end) const RAMET_REQUIRES(address_space_lock);  // no region touches it
  bool covered(Gva start, Gva end) const RAMET_REQUIRES(address_space_lock);  // no hole in it

  // Whether the limit on regions allows cuts at both ends and `more` new regions.
  bool has_room(Gva start, Gva end, std::size_t more) const RAMET_REQUIRES(address_space_lock);
  // The same for taking the range out, which leaves one region more only if it is the middle of one.
  bool has_room_to_remove(Gva start, Gva end) const RAMET_REQUIRES(address_space_lock);

  // Adds a region and merges it with neighbours that are alike. Precondition: it overlaps no other.
  void insert(Region) RAMET_REQUIRES(address_space_lock);
  // Cuts regions at both ends, and makes the sequence counts of those between odd: from now on no fault without the
  // lock maps anything there. The entries may then be changed; remove(), change() or release() must follow.
  void seize(Gva start, Gva end) RAMET_REQUIRES(address_space_lock);
  // Ends a seizure: the regions of the range are as they were.
  void release(Gva start, Gva end) RAMET_REQUIRES(address_space_lock);
  // Takes a seized range out. `taken` sees each region.
  void remove(Gva start, Gva end, const std::function<void(const Region&)>& taken) RAMET_REQUIRES(address_space_lock);
  // Replaces every region of a seized range by an edited copy, and merges what became alike.
  void change(Gva start, Gva end, const std::function<void(Region&)>& edit) RAMET_REQUIRES(address_space_lock);
  // Moves the start of a region down; returns the new region. Precondition: no region lies between.
  const Region* extend_down(const Region&, Gva start) RAMET_REQUIRES(address_space_lock);
  // Regions that were taken out, which own their backings: see RegionTree.
  rcu::Retired take_retired() RAMET_REQUIRES(address_space_lock) { return tree_.take_retired(); }

  // A free range of that length; its start is congruent to `skew` modulo `alignment` (a power of two).
  std::optional<Gva> find_free(std::uint64_t length, std::uint64_t alignment, std::uint64_t skew = 0)
      RAMET_REQUIRES(address_space_lock);

  // Pages below a grows_down region that stay free, for it to fault on (Linux: stack_guard_gap).
  static constexpr std::uint64_t kGuardGap = 256 * kPageSize;

 private:
  void cut(Gva at) RAMET_REQUIRES(address_space_lock);
  // Merges the region with the next one if they are alike; returns the region that is in the map now.
  const Region* try_merge(const Region* left) RAMET_REQUIRES(address_space_lock);
  void merge_around(Gva start, Gva end) RAMET_REQUIRES(address_space_lock);
  static bool alike(const Region& left, const Region& right);
  static Gva guarded_start(const Region&);
  std::optional<Gva> search_from_hint(std::uint64_t length, std::uint64_t alignment, std::uint64_t skew)
      RAMET_REQUIRES(address_space_lock);

  // Several steps of a change, of which copies() sees none or all. Not to be nested.
  class Steps {
   public:
    explicit Steps(RegionMap& map) : count_(map.changes_) { count_.begin(); }
    ~Steps() { count_.end(); }
    Steps(const Steps&) = delete;
    Steps& operator=(const Steps&) = delete;

   private:
    SequenceCount& count_;
  };

  RegionTree tree_;
  // Odd while Steps are under way. The tree's release stores and acquire loads order it: a reader that saw any part of
  // a change sees this count changed as well.
  SequenceCount changes_;
  Gva bottom_ RAMET_GUARDED_BY(address_space_lock), top_ RAMET_GUARDED_BY(address_space_lock);
  const std::size_t max_;
  // The search starts at hint_: above it there is no free range longer than skipped_. Without it, a
  // program with thousands of regions would pay for all of them at each map.
  Gva hint_ RAMET_GUARDED_BY(address_space_lock);
  std::uint64_t skipped_ RAMET_GUARDED_BY(address_space_lock) = 0;
};

}  // namespace ramet::mm
