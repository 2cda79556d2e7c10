// What both ways of a fault do: choose a window, take frames for what is absent there, publish them at once.
#include <algorithm>
#include <array>
#include <bit>

#include "guest-mm/address_space_impl.hpp"

namespace ramet::mm {

using State = PageTable::State;
using Level = PageTable::Level;

// Pieces of frames for one window. As many as fit: what is left of the window is for another fault.
struct AddressSpace::Impl::Runs {
  std::array<PageTable::Run, 64> items;
  unsigned count = 0;
  std::uint64_t frames = 0;
  bool full() const { return count == items.size(); }
  void add(Gva start, Gpa gpa, std::uint64_t pages) {
    frames += pages;
    if (count > 0) {
      PageTable::Run& last = items[count - 1];
      const std::uint64_t bytes = last.pages << kPageShift;
      if (last.start + bytes == start && last.gpa + bytes == gpa) {
        last.pages += pages;
        return;
      }
    }
    items[count++] = {start, gpa, pages};
  }
};

// Execution is withheld until somebody fetches there.
static PageTable::Attributes withheld(PageTable::Attributes a) {
  a.deferred_exec = a.deferred_exec || a.execute;
  a.execute = false;
  return a;
}

PageTable::Attributes AddressSpace::Impl::attributes(const Region& region, Access access) const {
  PageTable::Attributes a;
  a.write = has(region.prot, Prot::Write);
  a.execute = has(region.prot, Prot::Exec);
  if (a.write && a.execute) {  // never both: the access decides which it is for now
    a.write = access != Access::Execute;
    a.execute = !a.write;
  }
  if (access != Access::Execute && a.execute && defers_exec(region)) a = withheld(a);
  a.user = true;
  a.accessed = true;
  a.dirty = a.write;
  return a;
}

// What the access itself does not need stays for the processor to set.
static PageTable::Attributes as_accessed(PageTable::Attributes a, bool accessed, bool written) {
  a.accessed = accessed;
  a.dirty = a.dirty && written;
  return a;
}

PageTable::Attributes AddressSpace::Impl::attributes(const Region& region, Access access, Gpa frame) const {
  PageTable::Attributes a = attributes(region, access);
  if (a.write && !may_write(region, frame)) a.write = a.dirty = false;
  return a;
}

bool AddressSpace::Impl::may_write(const Region& region, Gpa frame) const {
  return (region.shared && region.backing) || frames->exclusive(frame) || pins->pinned(frame);
}

bool AddressSpace::Impl::allows(const PageTable::Leaf& leaf, Access access) {
  const PageTable::Attributes& a = leaf.attributes;
  if (leaf.hidden) return false;
  switch (access) {
    case Access::Read: return true;
    case Access::Write: return a.write && a.dirty;  // not dirty: some processors need a fault to set it
    case Access::Execute: return a.execute;
  }
  return false;
}

PageTable::Attributes AddressSpace::Impl::upgraded(const Region& region, const PageTable::Leaf& leaf, Access access) const {
  if (leaf.state == State::Present && allows(leaf, access)) {
    auto used = leaf.attributes;
    used.accessed = true, used.ahead = false;
    return used;
  }
  auto next = access == Access::Write ? attributes(region, access) : attributes(region, access, leaf.address);
  next.dirty = next.dirty || leaf.attributes.dirty;
  return next;
}

// Where the object behind the region ends, as an address in the region; BeyondEnd if before `address`.
Result<Gva> AddressSpace::Impl::end_of_object(const Region& region, Gva address) {
  if (!region.backing) return region.end;
  const std::uint64_t size = std::min(region.backing->size(), std::uint64_t{1} << 62);
  std::uint64_t end = align_up(size, kPageSize);
  if (region.shared) {
    const auto shared = region.backing->shared();
    if (!shared.bank || region.offset_of(address) < shared.bank_offset) return fail(Error::BeyondEnd);
    end = std::min(end, shared.bank_offset + shared.bank->size());
  }
  if (region.offset_of(address) >= end) return fail(Error::BeyondEnd);
  return address + std::min(region.end - address, end - region.offset_of(address));
}

bool AddressSpace::Impl::takes_blocks(const Region& region) const {
  // A block that flips between writable and executable would take all its pages with it.
  return config.blocks && !region.backing && !region.grows_down && !region.flips() &&
         region.huge != Region::Huge::Never;
}

AroundPlan AddressSpace::Impl::plan(const Region& region, Gva address, Gva end, const PageTable::Leaf& leaf) const {
  AroundInput in;
  in.address = address;
  in.start = region.start;
  in.end = end;
  in.blocks = takes_blocks(region);
  in.eager_blocks = region.huge == Region::Huge::Always;
  in.block_absent = leaf.level >= Level::Pmd;
  const Gva block = align_down(address, kBlockSize);
  if (in.blocks && in.block_absent && block > region.start) {
    const PageTable::Leaf before = table->find(block - 1);
    in.previous_is_block = before.state != State::Absent && before.level >= Level::Pmd;
  }
  if (leaf.level == Level::Pte) in.populated = table->entries(leaf.table);
  in.window = config.around_pages;
  in.total_frames = frames->total();
  // Pages of a shared file take none of the VM's frames.
  in.free_frames = region.shared && region.backing ? in.total_frames : in.total_frames - frames->used();
  return plan_around(in, region.around.load());
}

Result<FramePool::Run> AddressSpace::Impl::take_run(const Window& w, Gpa in_table, Gva at, std::uint64_t pages, Fill how) {
  if (w.region.node) {
    const unsigned order = w.level == Level::Pmd ? FramePool::kBlockOrder : static_cast<unsigned>(std::bit_width(pages)) - 1;
    if (const auto run = frames->allocate(order, how, w.region.node)) return run;
  }
  if (w.level == Level::Pmd) return frames->allocate(FramePool::kBlockOrder, how);
  if (config.merge && takes_blocks(w.region)) {
    // A frame in its place among those around it lets the table become a block again.
    if (const auto place = table->place_for(in_table, w.level, at)) {
      if (const auto run = frames->allocate_at(*place, pages, how)) return run;
    }
  }
  return frames->allocate_up_to(pages, how);
}

Result<> AddressSpace::Impl::take_frames(const Window& w, Gpa in_table, Runs& runs) {
  std::array<PageTable::Gap, 32> gaps;
  const auto own = align_down(w.address, arch::span_of(w.level));
  unsigned n = table->absent(in_table, w.level, w.start, w.end, gaps);
  // The page that is needed comes first, should the window be too ragged for all of it.
  if (n == gaps.size() && gaps.back().end <= own) n = table->absent(in_table, w.level, own, own + arch::span_of(w.level), gaps);
  const bool shared = w.region.shared && w.region.backing;
  std::uint64_t wanted = 0;
  for (unsigned i = 0; i < n; ++i) wanted += (gaps[i].end - gaps[i].start) >> kPageShift;
  if (w.guard.sequence && !shared) {
    const std::uint64_t budget = config.speculative_frames ? config.speculative_frames : frames->total() / 8;
    if (in_flight.fetch_add(wanted, std::memory_order_relaxed) + wanted > budget) {
      in_flight.fetch_sub(wanted, std::memory_order_relaxed);
      return fail(Error::NoMemory);
    }
    runs.frames = 0;
  }
  Result<> done;
  for (unsigned i = 0; i < n && done; ++i) {
    for (Gva at = gaps[i].start; at < gaps[i].end && !runs.full();) {
      const std::uint64_t pages = (gaps[i].end - at) >> kPageShift;
      if (shared) {
        const auto object = w.region.backing->shared();
        runs.add(at, object.bank->base() + (w.region.offset_of(at) - object.bank_offset), pages);
        break;
      }
      const Fill how = w.region.backing ? Fill::Overwrite : Fill::Zero;
      const auto run = take_run(w, in_table, at, pages, how);
      if (!run) {
        done = fail(run.error());
        break;
      }
      if (w.region.backing) {
        const std::span<std::byte> bytes(memory.data().at(run->gpa), run->bytes());
        if (done = w.region.backing->read(w.region.offset_of(at), bytes); !done) {
          frames->free(run->gpa, run->pages());
          break;
        }
      }
      runs.add(at, run->gpa, run->pages());
      at += run->bytes();
    }
  }
  if (w.guard.sequence && !shared && runs.frames != wanted) {
    in_flight.fetch_sub(wanted - runs.frames, std::memory_order_relaxed);
  }
  // What could be had is enough, if it holds the page that is needed.
  const auto holds = [&](const PageTable::Run& r) { return own - r.start < r.pages << kPageShift; };
  if (done || std::any_of(runs.items.begin(), runs.items.begin() + runs.count, holds)) return {};
  return done;
}

Result<PageTable::Outcome> AddressSpace::Impl::fill(const Window& w) {
  const auto in_table = w.table ? w.table : table->table_at(w.address, w.level);
  if (!in_table || !table->writable(*in_table)) return fail(Error::NotMapped);
  const bool shared = w.region.shared && w.region.backing;
  Runs runs;
  const auto taken = take_frames(w, *in_table, runs);
  PageTable::Outcome outcome;
  std::vector<PageTable::Run> left_over;
  if (taken) {
    auto entry = attributes(w.region, w.access), around = entry.execute && defers_exec(w.region) ? withheld(entry) : entry;
    entry.ahead = w.asked == Window::Asked::None;
    around.ahead = w.asked != Window::Asked::All;
    if (!config.eager_accessed_dirty) {
      entry = as_accessed(entry, true, w.access == Access::Write);
      around = as_accessed(around, false, false);
    }
    outcome = table->publish({*in_table, w.level, std::span(runs.items.data(), runs.count), w.address, entry, around, w.guard}, left_over);
    const unsigned at_once = entry.deferred_exec ? 0 : 1;
    if (around.deferred_exec && outcome.mapped > at_once) history(w.region, w.level).defer(MoveReason::Mapped, outcome.mapped - at_once);
  } else {
    left_over.assign(runs.items.begin(), runs.items.begin() + runs.count);
  }
  if (!shared) {
    for (const PageTable::Run& r : left_over) frames->free(r.gpa, r.pages);
    if (w.guard.sequence && runs.frames > 0) in_flight.fetch_sub(runs.frames, std::memory_order_relaxed);
  }
  if (!taken) return fail(taken.error());
  return outcome;
}

Result<AddressSpace::Impl::Settled> AddressSpace::Impl::map_absent(const Region& region, Gva address, Access access,
                                                                   const PageTable::Leaf& leaf, Guard guard,
                                                                   FlushBatch* batch) {
  const bool locked = batch != nullptr;
  const auto end = end_of_object(region, address);
  if (!end) return fail(end.error());
  AroundPlan planned = plan(region, address, *end, leaf);
  const auto settled = [&](const PageTable::Outcome& outcome, Level level) {
    Settled s{.how = outcome.how, .resolved = Resolved::Spurious, .uniform = {}};
    if (outcome.how != Published::Done) return s;
    if (outcome.uniform) s.uniform = level;
    if (outcome.mapped == 0) return s;  // somebody else was faster
    (level == Level::Pte ? counters.pages_mapped : counters.blocks_mapped).add(outcome.mapped);
    if (outcome.mapped > 1) (level == Level::Pte ? counters.pages_around : counters.blocks_around).add(outcome.mapped - 1);
    s.resolved = region.backing ? Resolved::File : Resolved::Zero;
    return s;
  };
  // With the lock a table that is found may still be shared; prepare() makes it our own.
  const auto found = [&](Level level) { return !locked && leaf.level == level ? std::optional(leaf.table) : std::nullopt; };
  if (planned.blocks > 0) {
    const Gva start = align_down(address, kBlockSize);
    const Gva stop = std::min(start + planned.blocks * kBlockSize, align_down(start, arch::span_of(Level::Pud)) + arch::span_of(Level::Pud));
    if (!locked || table->prepare(start, Level::Pmd, *batch)) {
      const auto outcome = fill({region, address, access, guard, Level::Pmd, start, stop, found(Level::Pmd)});
      if (!outcome && !locked) {
        if (outcome.error() == Error::NotMapped) return Settled{.how = Published::TableGone};
        return fail(outcome.error());
      }
      if (outcome) {
        region.around.store({.up = start + outcome->mapped * kBlockSize, .down = start,
                             .pages = static_cast<unsigned>(outcome->mapped) * kPagesPerBlock});
        return settled(*outcome, Level::Pmd);
      }
    }
    planned.next = {.up = planned.end, .down = planned.start, .pages = config.around_pages};
  }
  const Gva block = align_down(address, kBlockSize);
  if (locked) {
    if (auto ready = table->prepare(address, Level::Pte, *batch); !ready) return fail(ready.error());
    if (leaf.level > Level::Pte && config.speculative_faults) tables->stock_up();
  } else if (leaf.level == Level::Pmd) {
    // What reaches into the next table is mapped at once with the lock.
    if (planned.start < block || planned.end > block + kBlockSize) return Settled{.how = Published::TableGone};
    if (const auto added = table->add_table(leaf.table, address, guard); added != Published::Done) return Settled{.how = added};
  }
  const Gva from = std::max(planned.start, block), to = std::min(planned.end, block + kBlockSize);
  auto outcome = fill({region, address, access, guard, Level::Pte, from, to, found(Level::Pte), Window::Asked::Page});
  // What lies around the page must not keep the page itself from being mapped.
  if (!outcome && locked) outcome = fill({region, address, access, guard, Level::Pte, address, address + kPageSize, found(Level::Pte)});
  if (!outcome && outcome.error() == Error::NotMapped) return Settled{.how = Published::TableGone};
  if (!outcome) return fail(outcome.error());
  region.around.store(planned.next);
  // A small region that reaches into the next table.
  for (const auto& [start, stop] : {std::pair{planned.start, from}, std::pair{to, planned.end}}) {
    if (!locked || start >= stop || !table->prepare(start, Level::Pte, *batch)) continue;
    const auto more = fill({region, start, access, guard, Level::Pte, start, stop, {}, Window::Asked::None});
    if (more) outcome->mapped += more->mapped;
  }
  return settled(*outcome, Level::Pte);
}

}  // namespace ramet::mm
