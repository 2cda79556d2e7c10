// Splitting, merging and placing regions.
#include "guest-mm/region_map.hpp"

#include <algorithm>
#include <memory>
#include <utility>

namespace ramet::mm {

const Region* RegionMap::find(Gva address) const {
  const Region* r = at_or_after(address);
  return r && r->contains(address) ? r : nullptr;
}

bool RegionMap::copies(std::vector<Region>& out) const {
  out.clear();
  rcu::Reader reader;
  const std::uint32_t before = changes_.read();
  if (SequenceCount::changing(before)) return false;
  for (const Region* r = at_or_after(0); r; r = next(*r)) out.push_back(*r);
  return changes_.unchanged(before);
}

bool RegionMap::free(Gva start, Gva end) const {
  const Region* r = at_or_after(start);
  return !r || r->start >= end;
}

bool RegionMap::covered(Gva start, Gva end) const {
  for (const Region* r = at_or_after(start); start < end; r = next(*r)) {
    if (!r || r->start > start) return false;
    start = r->end;
  }
  return true;
}

bool RegionMap::has_room(Gva start, Gva end, std::size_t more) const {
  const Region* first = find(start);
  const Region* last = find(end);
  const std::size_t cuts = (first && first->start < start) + (last && last->start < end);
  return size() + cuts + more <= max_;
}

bool RegionMap::has_room_to_remove(Gva start, Gva end) const {
  const Region* region = find(start);
  return size() < max_ || !region || region->start == start || region->end <= end;
}

void RegionMap::cut(Gva at) {
  const Region* old = find(at);
  if (!old || old->start == at) return;
  auto left = std::make_unique<Region>(*old), right = std::make_unique<Region>(*old);
  left->end = right->start = at;
  if (right->backing) right->offset = old->offset_of(at);
  tree_.erase(old);
  tree_.insert(std::move(left));
  tree_.insert(std::move(right));
}

void RegionMap::seize(Gva start, Gva end) {
  Steps steps(*this);
  cut(start);
  cut(end);
  for (const Region* r = at_or_after(start); r && r->start < end; r = next(*r)) r->sequence.begin();
}

void RegionMap::release(Gva start, Gva end) {
  Steps steps(*this);
  for (const Region* r = at_or_after(start); r && r->start < end; r = next(*r)) r->sequence.end();
  merge_around(start, end);
}

bool RegionMap::alike(const Region& left, const Region& right) {
  const bool at_rest = !SequenceCount::changing(left.sequence.read()) &&
                       !SequenceCount::changing(right.sequence.read());
  return at_rest && left.end == right.start && left.prot == right.prot && left.max_prot == right.max_prot &&
         left.shared == right.shared && left.grows_down == right.grows_down && left.dont_fork == right.dont_fork &&
         left.wipe_on_fork == right.wipe_on_fork && left.locked == right.locked && left.huge == right.huge &&
         left.node == right.node && left.backing == right.backing && left.name == right.name &&
         (!left.backing || left.offset + left.length() == right.offset);
}

const Region* RegionMap::try_merge(const Region* left) {
  const Region* right = next(*left);
  if (!right || !alike(*left, *right)) return left;
  auto both = std::make_unique<Region>(*left);
  both->end = right->end;
  if (const AroundState s = right->around.load(); s.pages > left->around.load().pages) both->around.store(s);
  tree_.erase(left);
  tree_.erase(right);
  const Region* merged = both.get();
  tree_.insert(std::move(both));
  return merged;
}

void RegionMap::merge_around(Gva start, Gva end) {
  const Region* r = at_or_after(start == 0 ? 0 : start - 1);
  while (r && r->start <= end) {
    const Region* merged = try_merge(r);
    r = merged == r ? next(*r) : merged;
  }
}

void RegionMap::insert(Region region) {
  Steps steps(*this);
  const Gva start = region.start, end = region.end;
  tree_.insert(std::make_unique<Region>(std::move(region)));
  merge_around(start, end);
}

void RegionMap::remove(Gva start, Gva end, const std::function<void(const Region&)>& taken) {
  Steps steps(*this);
  const Region* r = at_or_after(start);
  while (r && r->start < end) {
    taken(*r);
    const Region* gone = r;
    r = next(*r);
    tree_.erase(gone);
  }
  if (end >= hint_) {
    // The hole that this leaves above the hint, including the free ranges beside it.
    const Gva above = r ? std::min(r->start, top_) : top_;
    const Region* left = last_below(start);
    const Gva below = left ? left->end : bottom_;
    if (above > below) skipped_ = std::max(skipped_, above - below);
  }
}

void RegionMap::change(Gva start, Gva end, const std::function<void(Region&)>& edit) {
  Steps steps(*this);
  for (const Region* r = at_or_after(start); r && r->start < end;) {
    auto edited = std::make_unique<Region>(*r);
    const Gva after = r->end;
    edit(*edited);
    tree_.erase(r);
    tree_.insert(std::move(edited));
    r = at_or_after(after);
  }
  merge_around(start, end);
}

const Region* RegionMap::extend_down(const Region& old, Gva start) {
  Steps steps(*this);
  auto larger = std::make_unique<Region>(old);
  if (larger->backing) larger->offset -= old.start - start;
  larger->start = start;
  const Region* placed = larger.get();
  tree_.erase(&old);
  tree_.insert(std::move(larger));
  return placed;
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
  // First region at or above the ceiling.
  const Region* above = at_or_after(ceiling);
  if (above && above->start < ceiling) above = next(*above);
  if (above) ceiling = std::min(ceiling, std::max(guarded_start(*above), bottom_));
  for (const Region* below = last_below(hint_);;) {
    const Gva floor = below ? std::max(below->end, bottom_) : bottom_;
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
    if (!below || floor <= bottom_) return std::nullopt;
    ceiling = std::min(std::max(guarded_start(*below), bottom_), hint_);
    below = last_below(below->start);
  }
}

}  // namespace ramet::mm
