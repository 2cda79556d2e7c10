// Splitting, merging and placing regions.
#include "guest-mm/region_map.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

namespace ramet::mm {

RegionMap::Map::iterator RegionMap::at_or_after(Gva address) {
  auto next = map_.upper_bound(address);
  if (next != map_.begin()) {
    const auto before = std::prev(next);
    if (before->second.end > address) return before;
  }
  return next;
}

RegionMap::Map::const_iterator RegionMap::at_or_after(Gva address) const {
  return const_cast<RegionMap*>(this)->at_or_after(address);
}

const Region* RegionMap::find(Gva address) const {
  const auto i = at_or_after(address);
  return i != map_.end() && i->second.contains(address) ? &i->second : nullptr;
}

Region* RegionMap::find(Gva address) { return const_cast<Region*>(std::as_const(*this).find(address)); }

bool RegionMap::free(Gva start, Gva end) const {
  const auto i = at_or_after(start);
  return i == map_.end() || i->second.start >= end;
}

bool RegionMap::covered(Gva start, Gva end) const {
  for (auto i = at_or_after(start); start < end; ++i) {
    if (i == map_.end() || i->second.start > start) return false;
    start = i->second.end;
  }
  return true;
}

bool RegionMap::room(Gva start, Gva end, std::size_t more) const {
  const Region* first = find(start);
  const Region* last = find(end);
  const std::size_t cuts = (first && first->start < start) + (last && last->start < end);
  return map_.size() + cuts + more <= max_;
}

bool RegionMap::room_to_remove(Gva start, Gva end) const {
  const Region* region = find(start);
  return map_.size() < max_ || !region || region->start == start || region->end <= end;
}

RegionMap::Map::iterator RegionMap::cut(Gva at) {
  const auto i = at_or_after(at);
  if (i == map_.end() || i->second.start >= at) return i;
  Region right = i->second;
  right.start = at;
  if (right.backing) right.offset += at - i->second.start;
  i->second.end = at;
  return map_.emplace_hint(std::next(i), at, std::move(right));
}

bool RegionMap::alike(const Region& left, const Region& right) {
  return left.end == right.start && left.prot == right.prot && left.max_prot == right.max_prot &&
         left.shared == right.shared && left.grows_down == right.grows_down && left.dont_fork == right.dont_fork &&
         left.huge == right.huge && left.backing == right.backing && left.name == right.name &&
         (!left.backing || left.offset + left.length() == right.offset);
}

RegionMap::Map::iterator RegionMap::try_merge(Map::iterator left) {
  const auto right = std::next(left);
  if (right == map_.end() || !alike(left->second, right->second)) return left;
  left->second.end = right->second.end;
  if (right->second.around.pages > left->second.around.pages) left->second.around = right->second.around;
  map_.erase(right);
  return left;
}

void RegionMap::merge_around(Gva start, Gva end) {
  auto i = at_or_after(start == 0 ? 0 : start - 1);
  while (i != map_.end() && i->second.start <= end) {
    const Gva before = i->second.end;
    i = try_merge(i);
    if (i->second.end == before) ++i;
  }
}

void RegionMap::insert(Region region) {
  const Gva start = region.start, end = region.end;
  map_.emplace(start, std::move(region));
  merge_around(start, end);
}

void RegionMap::remove(Gva start, Gva end, const std::function<void(const Region&)>& taken) {
  auto i = cut(start);
  cut(end);
  while (i != map_.end() && i->second.start < end) {
    taken(i->second);
    i = map_.erase(i);
  }
  if (end >= hint_) {
    // The hole this leaves above the hint, with the free ranges beside it.
    const Gva above = i == map_.end() ? top_ : std::min(i->second.start, top_);
    const Gva below = i == map_.begin() ? bottom_ : std::prev(i)->second.end;
    if (above > below) skipped_ = std::max(skipped_, above - below);
  }
}

void RegionMap::change(Gva start, Gva end, const std::function<void(Region&)>& edit) {
  auto i = cut(start);
  cut(end);
  for (; i != map_.end() && i->second.start < end; ++i) edit(i->second);
  merge_around(start, end);
}

void RegionMap::extend_down(Map::iterator i, Gva start) {
  auto node = map_.extract(i);
  if (node.mapped().backing) node.mapped().offset -= node.key() - start;
  node.key() = start;
  node.mapped().start = start;
  map_.insert(std::move(node));
}

Gva RegionMap::guarded_start(const Region& region) {
  if (!region.grows_down) return region.start;
  return region.start > kGuardGap ? region.start - kGuardGap : 0;
}

std::optional<Gva> RegionMap::find_free(std::uint64_t length, std::uint64_t alignment, std::uint64_t skew) {
  skew &= alignment - 1;
  if (length > skipped_ && hint_ != top_) {
    if (const auto found = search_from_hint(length, alignment, skew)) return found;
  }
  hint_ = top_;
  skipped_ = 0;
  return search_from_hint(length, alignment, skew);
}

std::optional<Gva> RegionMap::search_from_hint(std::uint64_t length, std::uint64_t alignment, std::uint64_t skew) {
  Gva ceiling = hint_;
  auto above = map_.lower_bound(ceiling);  // first region at or above the ceiling
  if (above != map_.end()) ceiling = std::min(ceiling, std::max(guarded_start(above->second), bottom_));
  for (;;) {
    const bool last = above == map_.begin();
    const Gva floor = last ? bottom_ : std::max(std::prev(above)->second.end, bottom_);
    if (ceiling > floor) {
      const std::uint64_t hole = ceiling - floor;
      if (hole >= length) {
        const Gva candidate = align_down(ceiling - length - skew, alignment) + skew;
        if (ceiling - length >= skew && candidate >= floor) {
          hint_ = ceiling;
          return candidate;
        }
      }
      skipped_ = std::max(skipped_, hole);
    }
    if (last || floor <= bottom_) return std::nullopt;
    --above;
    ceiling = std::min(std::max(guarded_start(above->second), bottom_), hint_);
  }
}

}  // namespace ramet::mm
