// What both ways of a fault do where nothing is mapped: choose a window, take frames for its absent pages, publish
// their entries together.
#include <algorithm>
#include <array>
#include <bit>

#include "guest-mm/address_space_impl.hpp"

namespace ramet::mm {

using State = PageTable::State;

// Frames for one window, as many extents as fit; another fault maps what is left of the window.
struct Faults::Extents {
  std::array<Extent, 64> items;
  unsigned count = 0;
  std::uint64_t frames = 0;
  bool full() const { return count == items.size(); }
  std::span<const Extent> all() const { return {items.data(), count}; }
  void add(Gva start, Gpa frame, std::uint64_t pages) {
    frames += pages;
    if (count > 0) {
      Extent& last = items[count - 1];
      const std::uint64_t bytes = last.pages << kPageShift;
      if (last.start + bytes == start && last.frame + bytes == frame) {
        last.pages += pages;
        return;
      }
    }
    items[count++] = {start, frame, pages};
  }
};

// Where the object behind the region ends, as an address in the region; BeyondEnd if before `address`. `recent`: as
// Backing::recent_size() has it, for a caller that asks again after reading; of private regions only.
Result<Gva> Faults::end_of_object(const Region& region, Gva address, bool recent) {
  if (!region.backing) return region.end;
  const std::uint64_t known = recent && !region.shared ? region.backing->recent_size(region.offset_of(address))
                                                       : region.backing->size();
  const std::uint64_t size = std::min(known, std::uint64_t{1} << 62);
  std::uint64_t end = align_up(size, kPageSize);
  if (region.shared) {
    const auto shared = region.backing->shared();
    if (!shared.bank || region.offset_of(address) < shared.bank_offset) return fail(Error::BeyondEnd);
    end = std::min(end, shared.bank_offset + shared.bank->size());
  }
  if (region.offset_of(address) >= end) return fail(Error::BeyondEnd);
  return address + std::min(region.end - address, end - region.offset_of(address));
}

AroundPlan Faults::plan(const Found& found, Gva end) const {
  const Region& region = found.region;
  const FramePool& frames = *core_.frames;
  AroundInput in;
  in.address = found.address;
  in.start = region.start;
  in.end = end;
  in.blocks = rules_.takes_blocks(region);
  in.eager_blocks = region.huge == Region::Huge::Always;
  in.block_absent = found.leaf.level >= Level::Pmd;
  const Gva block = align_down(found.address, kBlockSize);
  if (in.blocks && in.block_absent && block > region.start) {
    const PageTable::Leaf before = core_.table->find(block - 1);
    in.previous_is_block = before.state != State::Absent && before.level >= Level::Pmd;
  }
  if (found.leaf.level == Level::Pte) in.populated = core_.table->entries(found.leaf.table);
  in.window = core_.config.around_pages;
  in.total_frames = frames.total();
  // Pages of a shared file take none of the VM's frames.
  in.free_frames = region.shows_object() ? in.total_frames : in.total_frames - frames.used();
  return plan_around(in, region.around.load());
}

Gva Faults::end_of_blocks(const AroundPlan& planned, Gva start) {
  const std::uint64_t table = arch::span_of(Level::Pud);
  return std::min(start + planned.blocks * kBlockSize, align_down(start, table) + table);
}

void Faults::note_blocks(const Region& region, Gva start, const PageTable::Outcome& outcome) {
  region.around.store({.up = start + outcome.mapped * kBlockSize,
                       .down = start,
                       .pages = static_cast<unsigned>(outcome.mapped) * kPagesPerBlock});
}

Settled Faults::settled(const Region& region, const PageTable::Outcome& outcome, Level level) {
  Counters& counters = core_.counters;
  Settled s{.how = outcome.how, .resolved = Resolved::Spurious, .uniform = {}, .there = outcome.there};
  if (outcome.how != Published::Done) return s;
  if (outcome.uniform) s.uniform = level;
  if (outcome.mapped == 0) return s;  // another thread has mapped all of it
  (level == Level::Pte ? counters.pages_mapped : counters.blocks_mapped).add(outcome.mapped);
  if (outcome.mapped > 1)
    (level == Level::Pte ? counters.pages_around : counters.blocks_around).add(outcome.mapped - 1);
  s.resolved = region.backing ? Resolved::File : Resolved::Zero;
  return s;
}

Result<FramePool::Run> Faults::take_run(const Window& w, Gva at, std::uint64_t pages, Fill how) {
  const Region& region = w.found.region;
  FramePool& frames = *core_.frames;
  if (region.node) {
    const unsigned order = w.level == Level::Pmd ? FramePool::kBlockOrder
                                                 : static_cast<unsigned>(std::bit_width(pages)) - 1;
    if (const auto run = frames.allocate(order, how, region.node)) return run;
  }
  if (w.level == Level::Pmd) return frames.allocate(FramePool::kBlockOrder, how);
  if (core_.config.merge && rules_.takes_blocks(region)) {
    // Frames in line with those around them let the table become a block again.
    if (const auto place = core_.table->place_for(w.table, w.level, at)) {
      if (const auto run = frames.allocate_at(*place, pages, how)) return run;
    }
  }
  return frames.allocate_up_to(pages, how);
}

// Takes frames for one gap, until `extents` is full; for a shared object, the object's own.
Result<> Faults::take_gap(const Window& w, const Range& gap, Extents& extents) {
  const Region& region = w.found.region;
  for (Gva at = gap.start; at < gap.end && !extents.full();) {
    const std::uint64_t pages = (gap.end - at) >> kPageShift;
    if (region.shows_object()) {
      const auto object = region.backing->shared();
      extents.add(at, object.bank->base() + (region.offset_of(at) - object.bank_offset), pages);
      return {};
    }
    const auto run = take_run(w, at, pages, region.backing ? Fill::Overwrite : Fill::Zero);
    if (!run) return fail(run.error());
    if (region.backing) {
      const std::span<std::byte> bytes(core_.memory.data().at(run->gpa), run->bytes());
      auto read = region.backing->read(region.offset_of(at), bytes);
      if (read && w.found.guard.sequence) {
        const auto end = end_of_object(region, at, true);
        if (!end || *end < at + run->bytes()) read = fail(Error::BeyondEnd);
      }
      if (!read) {
        core_.frames->free(run->gpa, run->pages());
        return read;
      }
    }
    extents.add(at, run->gpa, run->pages());
    at += run->bytes();
  }
  return {};
}

// With a guard, `extents.frames` are counted among the frames in flight when this returns.
Result<> Faults::take_frames(const Window& w, Extents& extents) {
  std::array<Range, 32> gaps;
  const std::uint64_t span = arch::span_of(w.level);
  const Gva needed = align_down(w.found.address, span);
  unsigned n = core_.table->absent(w.table, w.level, w.start, w.end, gaps);
  // Too many gaps in front of the faulting page: only that page is mapped.
  if (n == gaps.size() && gaps.back().end <= needed)
    n = core_.table->absent(w.table, w.level, needed, needed + span, gaps);
  std::uint64_t wanted = 0;
  for (unsigned i = 0; i < n; ++i) wanted += (gaps[i].end - gaps[i].start) >> kPageShift;
  const bool limited = w.found.guard.sequence && !w.found.region.shows_object();
  if (limited && !core_.in_flight.take(wanted, core_.most_in_flight())) return fail(Error::NoMemory);
  Result<> done;
  for (unsigned i = 0; i < n && done; ++i) done = take_gap(w, gaps[i], extents);
  if (limited) core_.in_flight.give(wanted - extents.frames);
  // A shortage is no error if the faulting page has its frame.
  const auto holds = [&](const Extent& e) { return needed - e.start < e.pages << kPageShift; };
  if (done || std::ranges::any_of(extents.all(), holds)) return {};
  return done;
}

Result<PageTable::Outcome> Faults::map_window(const Window& w) {
  const auto& [region, address, access, leaf, guard] = w.found;
  if (!core_.table->writable(w.table)) return fail(Error::NotMapped);
  Extents extents;
  const auto taken = take_frames(w, extents);
  PageTable::Outcome outcome;
  std::vector<Extent> left_over;
  if (taken) {
    auto entry = rules_.attributes(region, access);
    auto around = entry.execute && rules_.defers_exec(region) ? EntryRules::withheld(entry) : entry;
    entry.ahead = w.asked == Window::Asked::None;
    around.ahead = w.asked != Window::Asked::All;
    if (!core_.config.eager_accessed_dirty) {
      entry = EntryRules::as_accessed(entry, true, access == Access::Write);
      around = EntryRules::as_accessed(around, false, false);
    }
    outcome = core_.table->publish({w.table, w.level, extents.all(), address, entry, around, guard}, left_over);
    const unsigned at_once = entry.deferred_exec ? 0 : 1;
    if (around.deferred_exec && outcome.mapped > at_once)
      EntryRules::history(region, w.level).defer(MoveReason::Mapped, outcome.mapped - at_once);
  } else {
    left_over.assign(extents.all().begin(), extents.all().end());
  }
  if (!region.shows_object()) {
    for (const Extent& e : left_over) core_.frames->free(e.frame, e.pages);
    if (guard.sequence) core_.in_flight.give(extents.frames);
  }
  if (!taken) return fail(taken.error());
  return outcome;
}

}  // namespace ramet::mm
