// Region map: the regions of one address space in address order, split and merged as operations need,
// and the search for free ranges.
#pragma once

#include <functional>
#include <map>
#include <optional>

#include "guest-mm/region.hpp"
#include "guest-mm/types.hpp"

namespace ramet::mm {

// Not thread-safe: under the address-space lock.
class RegionMap {
 public:
  using Map = std::map<Gva, Region>;  // by start

  // Free ranges are searched in [bottom, top), downwards.
  RegionMap(Gva bottom, Gva top, std::size_t max_regions) : bottom_(bottom), top_(top), max_(max_regions), hint_(top) {}

  Region* find(Gva address);
  const Region* find(Gva address) const;
  // First region that ends after `address`.
  Map::iterator at_or_after(Gva address);
  Map::const_iterator at_or_after(Gva address) const;
  Map::iterator end() { return map_.end(); }
  Map::const_iterator begin() const { return map_.begin(); }
  Map::const_iterator end() const { return map_.end(); }
  std::size_t size() const { return map_.size(); }

  bool free(Gva start, Gva end) const;      // no region touches it
  bool covered(Gva start, Gva end) const;   // no hole in it

  // Whether cutting at both ends, and `more` new regions, keep within the limit.
  bool room(Gva start, Gva end, std::size_t more) const;
  // The same for taking the range out, which leaves one region more only if it is the middle of one.
  bool room_to_remove(Gva start, Gva end) const;

  // A new region, where there is none; merges with its neighbours where they allow it.
  void insert(Region);
  // Takes [start, end) out, cutting regions at both ends. `taken` sees each piece.
  void remove(Gva start, Gva end, const std::function<void(const Region&)>& taken);
  // Changes every region in [start, end), cutting at both ends, and merges what became alike.
  void change(Gva start, Gva end, const std::function<void(Region&)>& edit);
  // Moves the start of a region down. Precondition: free.
  void extend_down(Map::iterator, Gva start);

  // A free range of that length; its start is congruent to `skew` modulo `alignment` (a power of two).
  std::optional<Gva> find_free(std::uint64_t length, std::uint64_t alignment, std::uint64_t skew = 0);

  // Pages below a grows_down region that stay free, for it to fault on (Linux: stack_guard_gap).
  static constexpr std::uint64_t kGuardGap = 256 * kPageSize;

 private:
  Map::iterator cut(Gva at);
  Map::iterator try_merge(Map::iterator left);   // with the next one; the result holds both, or left as it was
  void merge_around(Gva start, Gva end);
  static bool alike(const Region& left, const Region& right);
  static Gva guarded_start(const Region&);
  std::optional<Gva> search_from_hint(std::uint64_t length, std::uint64_t alignment, std::uint64_t skew);

  Map map_;
  const Gva bottom_, top_;
  const std::size_t max_;
  // The search starts at hint_: above it there is no free range longer than skipped_. Without it, a
  // program with thousands of regions would pay for all of them at each map.
  Gva hint_;
  std::uint64_t skipped_ = 0;
};

}  // namespace ramet::mm
