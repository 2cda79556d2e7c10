#include "vmm/process/mirror.hpp"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <tuple>

namespace ramet::vmm::process {
namespace {

// How far around a fault one mapping reaches: a table's worth of pages.
constexpr std::uint64_t kReach = mm::kBlockSize;
// More changes than these become one: all from the first to the last is unmapped, and mapped again when it is touched.
constexpr std::size_t kMostChanges = 24;
constexpr std::size_t kMostGains = 16;
static_assert(kMostChanges + kMostGains + 4 <= TOLD_MOST_COMMANDS);

bool overlap(const Mirror::Range& a, const Mirror::Range& b) { return a.start < b.end && b.start < a.end; }

bool covers(const Mirror::Placed& fill, const Mirror::Range& range) {
  return fill.first <= range.start && range.end <= fill.second.end;
}

std::uint64_t protection_for(mm::Access access) {
  switch (access) {
    case mm::Access::Write: return PROT_WRITE;
    case mm::Access::Execute: return PROT_EXEC;
    case mm::Access::Read: break;
  }
  return PROT_READ;
}

}  // namespace

Command Mirror::command(const Change& c) {
  const std::uint64_t bytes = c.range.end - c.range.start;
  if (!c.to) return {SYS_munmap, {c.range.start, bytes}};
  return {SYS_mmap,
          {c.range.start, bytes, c.to->protection, MAP_SHARED | MAP_FIXED, static_cast<std::uint64_t>(c.to->descriptor),
           c.to->offset}};
}

void Mirror::add(Slot& slot) {
  LockGuard guard(lock_);
  slots_.push_back(&slot);
}

void Mirror::remove(Slot& slot) {
  LockGuard guard(lock_);
  std::erase(slots_, &slot);
}

Mirror::Counts Mirror::counts() const {
  LockGuard guard(lock_);
  Counts now = counts_;
  now.mappings = mappings_.size();
  return now;
}

// --- what is noted ---

void Mirror::note_touched_locked(mm::Gva page) {
  if (std::ranges::find(touched_, page) != touched_.end()) return;
  if (touched_.size() == kMostGains) touched_.erase(touched_.begin());
  touched_.push_back(page);
}

Mirror::Mapping Mirror::part(const Placed& whole, const Range& within) {
  Mapping m = whole.second;
  m.offset += within.start - whole.first;
  m.end = within.end;
  return m;
}

bool Mirror::same(const Placed& a, const Placed& b) {
  return a.second.descriptor == b.second.descriptor && a.second.protection == b.second.protection &&
         a.second.offset - a.first == b.second.offset - b.first;
}

// Neighbours that continue one mapping, or both unmap, become one.
void Mirror::add(std::vector<Change>& changes, const Change& c) {
  if (!changes.empty() && changes.back().range.end == c.range.start) {
    Change& last = changes.back();
    if (!last.to && !c.to) {
      last.range.end = c.range.end;
      return;
    }
    if (last.to && c.to && same({last.range.start, *last.to}, {c.range.start, *c.to})) {
      last.range.end = last.to->end = c.range.end;
      return;
    }
  }
  changes.push_back(c);
}

void Mirror::count_refills_locked(const std::vector<Change>& changes) {
  counts_.refills += static_cast<std::uint64_t>(
      std::ranges::count_if(changes, [](const Change& c) { return c.to.has_value(); }));
}

std::vector<Mirror::Placed> Mirror::noted_locked(const Range& range) const {
  std::vector<Placed> found;
  auto at = mappings_.upper_bound(range.start);
  if (at != mappings_.begin()) --at;
  for (; at != mappings_.end() && at->first < range.end; ++at) {
    if (at->second.end <= range.start) continue;
    const Range within{std::max(at->first, range.start), std::min(at->second.end, range.end)};
    found.emplace_back(within.start, part(*at, within));
  }
  return found;
}

void Mirror::cut_locked(const Range& range) {
  auto at = mappings_.upper_bound(range.start);
  if (at != mappings_.begin()) --at;
  while (at != mappings_.end() && at->first < range.end) {
    const Placed whole = *at;
    if (whole.second.end <= range.start) {
      ++at;
      continue;
    }
    at = mappings_.erase(at);
    if (whole.first < range.start) mappings_.emplace(whole.first, part(whole, {whole.first, range.start}));
    if (whole.second.end > range.end)
      at = mappings_.emplace(range.end, part(whole, {range.end, whole.second.end})).first;
  }
}

void Mirror::note_locked(mm::Gva start, const Mapping& mapping) {
  cut_locked({start, mapping.end});  // it is mapped over
  Mapping m = mapping;
  auto next = mappings_.lower_bound(start);
  if (next != mappings_.end() && m.end == next->first && same({start, m}, *next)) {
    m.end = next->second.end;
    next = mappings_.erase(next);
  }
  if (next != mappings_.begin()) {
    const auto before = std::prev(next);
    if (before->second.end == start && same(*before, {start, m})) {
      before->second.end = m.end;
      return;
    }
  }
  mappings_.emplace(start, m);
}

void Mirror::review_locked(const Range& range, std::vector<Change>& changes) {
  const std::vector<Placed> noted = noted_locked(range);
  if (noted.empty()) return;
  std::vector<Change> found;
  std::size_t looks = 0;
  for (const Placed& piece : noted) {
    const mm::Gva end = piece.second.end;
    for (mm::Gva at = piece.first; at < end;) {
      Missing unused;
      const auto seen = looks++ < kMostChanges ? seen_locked(at, PROT_READ, unused) : std::nullopt;
      if (!seen) {
        add(found, {{at, end}, {}});
        break;
      }
      const Range within{at, std::min(seen->second.end, end)};
      const Placed now{at, part(*seen, within)};
      if (!same(piece, now)) add(found, {within, now.second});
      at = within.end;
    }
  }
  for (const Change& c : found) {
    if (c.to) note_locked(c.range.start, *c.to);
    else cut_locked(c.range);
    add(changes, c);
  }
}

void Mirror::bound_locked(std::vector<Change>& changes) {
  if (changes.size() <= kMostChanges) return;
  Range all{RAMET_USER_END, 0};
  for (const Change& c : changes) all = {std::min(all.start, c.range.start), std::max(all.end, c.range.end)};
  forget_locked(all);
  changes.assign(1, {all, {}});
}

void Mirror::forget_locked(const Range& range) {
  cut_locked(range);
  const auto note_in = [&](const std::vector<Change>& changes) RAMET_REQUIRES(lock_) {
    for (const Change& c : changes)
      if (c.to && overlap(c.range, range)) note_locked(c.range.start, *c.to);
  };
  for (const Slot* slot : slots_)
    if (!slot->context.applied(slot->list)) note_in(slot->changes);
  for (const Batch& b : batches_) note_in(b.changes);
}

void Mirror::drop_all_locked() {
  gains_.clear();
  forget_locked(kAll);
  pending_.assign(1, {kAll, {}});
  ++counts_.evictions;
}

// --- filling ---

std::optional<Mirror::Placed> Mirror::seen_locked(mm::Gva address, std::uint64_t protection, Missing& missing) const {
  const auto t = space_.translate(address, kReach);
  if (!t) return std::nullopt;
  const std::uint64_t allowed = PROT_READ | (t->write ? PROT_WRITE : 0ull) | (t->execute ? PROT_EXEC : 0ull);
  if ((allowed & protection) != protection) return std::nullopt;
  const mm::Gva page = mm::align_down(address, mm::kPageSize);
  const mm::Gpa frame = t->frame + (page - t->start);
  const auto bank = memory_.bank_of(frame);
  const mm::FilePart part = bank ? bank->file_at(frame) : mm::FilePart{};
  if (!part.file) {
    missing.none = true;
    return std::nullopt;
  }
  // Consecutive frames may lie in several banks or files: the mapping ends where the page's own does.
  mm::Gva end = std::min(t->start + t->bytes, page + part.bytes);
  std::uint64_t before = std::min(page - t->start, frame - bank->base());
  if (const auto first = bank->file_at(frame - before); first.file != part.file || first.bytes <= before) before = 0;
  // Nor is a page mapped whose contents are still to be brought: the process could not tell.
  const mm::Range there = bank->there(frame, {frame - before, std::min(frame + (end - page), bank->end())});
  if (there.start == there.end) {
    missing.bank = bank, missing.frame = frame;
    return std::nullopt;
  }
  before = frame - there.start;
  end = page + (there.end - frame);
  const bool writable = t->write || (!bank->read_only() && part.file->writable() && !part.file->closed());
  const auto given = files_.find({part.file->id(), writable});
  if (given == files_.end()) {
    const Wanted wanted{part.file, writable};
    if (missing.files.size() < Mapper::kMostGiven &&
        std::ranges::find(missing.files, wanted.key(), &Wanted::key) == missing.files.end())
      missing.files.push_back(wanted);
    return std::nullopt;
  }
  return Placed{page - before, Mapping{.end = end,
                                       .descriptor = given->second.number,
                                       .offset = part.offset - before,
                                       .protection = allowed}};
}

// --- what is expected ---

std::vector<mm::Gva> Mirror::touched() const {
  LockGuard guard(lock_);
  return touched_;
}

void Mirror::expect(std::span<const mm::Gva> addresses) {
  LockGuard guard(lock_);
  touched_.assign(addresses.begin(), addresses.end());
  expected_ = touched_;
}

std::vector<Mirror::Change> Mirror::expected_locked(Missing& missing) const {
  std::vector<Change> found;
  for (const mm::Gva address : expected_) {
    Missing here;
    here.files = std::move(missing.files);
    const auto seen = seen_locked(address, PROT_READ, here);
    missing.files = std::move(here.files);
    if (seen) found.push_back({{seen->first, seen->second.end}, seen->second});
  }
  return found;
}

void Mirror::note_expected_locked(const std::vector<Change>& found, std::vector<Change>& changes) {
  expected_.clear();
  for (const Change& expected : found) {
    // What is noted there may still be mapped by a list that is under way.
    if (changes.size() == kMostGains || !noted_locked(expected.range).empty()) continue;
    note_locked(expected.range.start, *expected.to);
    changes.push_back(expected);
  }
}

std::expected<void, int> Mirror::map_expected() {
  Missing missing;
  {
    LockGuard guard(lock_);
    (void)expected_locked(missing);
  }
  if (auto given = give(missing.files); !given) return given;
  std::uint64_t batch;
  {
    LockGuard guard(lock_);
    Missing still;
    std::vector<Change> changes;
    note_expected_locked(expected_locked(still), changes);
    if (changes.empty()) return {};
    count_refills_locked(changes);
    batch = start_batch_locked(std::move(changes));
  }
  if (const auto made = make_batch(batch, {}); !made) return std::unexpected(made.error());
  return {};
}

// --- entering ---

std::pair<std::optional<Mirror::Underway>, std::uint64_t> Mirror::ahead_locked(
    const Slot& slot, const std::optional<Placed>& fill) const {
  std::optional<Underway> list;
  std::uint64_t batch = 0;
  for (const Slot* other : slots_) {
    if (other == &slot || other->context.applied(other->list)) continue;
    if (other->strict || (fill && differs(other->changes, *fill))) list = Underway{other->context, other->list};
  }
  for (const Batch& b : batches_)
    if (b.strict || (fill && differs(b.changes, *fill))) batch = b.number;
  return {list, batch};
}

std::expected<Mirror::Entered, int> Mirror::enter(Slot& slot, std::optional<Wish> wish, std::vector<Command> commands) {
  Entered entered;
  for (bool expecting = true;;) {
    Missing missing;
    std::optional<Underway> first;
    std::uint64_t earlier = 0, batch = 0;
    {
      LockGuard guard(lock_);
      if (mappings_.size() >= capacity_) drop_all_locked();
      std::optional<Placed> fill;
      if (wish) fill = seen_locked(wish->address, protection_for(wish->access), missing);
      if (missing.none) return std::unexpected(ENXIO);
      Missing still;  // files for what is expected are given once: they may be more than the process can have
      const auto expected = expected_locked(expecting ? missing : still);
      std::tie(first, earlier) = ahead_locked(slot, fill);
      if (!first && !earlier && missing.files.empty() && !missing.bank) {
        note_expected_locked(expected, gains_);
        const bool strict = !pending_.empty();
        std::vector<Change> changes = std::exchange(pending_, {});
        changes.insert(changes.end(), gains_.begin(), gains_.end());
        gains_.clear();
        // They come before the fill, which may overlap them; those that it covers need not be made.
        if (fill) std::erase_if(changes, [&](const Change& c) { return covers(*fill, c.range); });
        count_refills_locked(changes);
        if (fill) {
          note_locked(fill->first, fill->second);
          note_touched_locked(mm::align_down(wish->address, mm::kPageSize));
          changes.push_back({{fill->first, fill->second.end}, fill->second});
          ++counts_.fills;
        }
        if (changes.empty() || mapper_.threads_map()) {
          for (const Change& c : changes) commands.push_back(command(c));
          if (fill) entered.fill = commands.size() - 1;
          slot.strict = strict;
          slot.changes = std::move(changes);
          slot.inside.store(true, std::memory_order_seq_cst);
          slot.context.prepare(commands, Then::Guest);
          slot.list = slot.context.go();
          return entered;
        }
        batch = start_batch_locked(std::move(changes), strict);
      }
    }
    if (batch) {
      const auto made = make_batch(batch, {});
      if (!made) return std::unexpected(made.error());
      entered.refused = entered.refused || !*made;
      wish.reset();
    }
    if (first && !wait_applied(first->context, first->list)) return std::unexpected(ESRCH);
    if (earlier) wait_for_batches(earlier);
    if (missing.bank) missing.bank->bring(missing.frame, missing.frame + mm::kPageSize);
    if (!missing.files.empty()) {
      expecting = false;
      if (auto given = give(missing.files); !given) return std::unexpected(given.error());
    }
  }
}

void Mirror::evict() {
  LockGuard guard(lock_);
  drop_all_locked();
}

void Mirror::gained(std::span<const Range> ranges) {
  LockGuard guard(lock_);
  for (const auto& r : ranges) {
    if (r.start >= RAMET_USER_END) continue;
    for (const Placed& piece : noted_locked({r.start, std::min<mm::Gva>(r.end, RAMET_USER_END)})) {
      if (gains_.size() == kMostGains) return;
      Missing unused;
      const auto seen = seen_locked(piece.first, piece.second.protection, unused);
      if (!seen) continue;
      const Range within{piece.first, std::min(piece.second.end, seen->second.end)};
      Mapping now = part(*seen, within);
      const std::uint64_t protection = std::exchange(now.protection, piece.second.protection);
      if (protection == piece.second.protection || !same(piece, {piece.first, now})) continue;
      now.protection = protection;
      note_locked(piece.first, now);
      gains_.push_back({within, now});
    }
  }
}

// --- taking away ---

bool Mirror::wait_applied(const Context& context, std::uint32_t list) {
  unsigned silent = 0;
  return context.wait_applied(list, [&] { return mapper_.patient(silent); });
}

void Mirror::wait_for(const std::vector<Underway>& lists) {
  // A process that does not answer has been killed, and maps nothing any more.
  for (const Underway& u : lists) (void)wait_applied(u.context, u.list);
}

bool Mirror::touches(const std::vector<Change>& changes, std::span<const Range> ranges) {
  return std::ranges::any_of(changes, [&](const Change& c) {
    return std::ranges::any_of(ranges, [&](const Range& r) { return overlap(c.range, r); });
  });
}

bool Mirror::differs(const std::vector<Change>& changes, const Placed& fill) {
  return std::ranges::any_of(changes, [&](const Change& c) {
    return overlap(c.range, {fill.first, fill.second.end}) && !(c.to && same({c.range.start, *c.to}, fill));
  });
}

std::vector<Mirror::Underway> Mirror::underway_locked(std::span<const Range> ranges) const {
  std::vector<Underway> lists;
  for (const Slot* slot : slots_)
    if (!slot->context.applied(slot->list) && touches(slot->changes, ranges))
      lists.push_back({slot->context, slot->list});
  return lists;
}

void Mirror::flush(std::span<const Range> ranges, bool everything) {
  std::vector<Underway> underway;
  std::uint64_t batch = 0, earlier = 0;
  {
    LockGuard guard(lock_);
    if (everything) ranges = {&kAll, 1};
    underway = underway_locked(ranges);
    for (const Batch& b : batches_)
      if (touches(b.changes, ranges)) earlier = b.number;
    std::vector<Change> changes;
    for (const auto& r : ranges)
      if (r.start < RAMET_USER_END) review_locked({r.start, std::min<mm::Gva>(r.end, RAMET_USER_END)}, changes);
    if (!changes.empty()) {
      gains_.clear();  // they may be of what is lost
      pending_.insert(pending_.end(), changes.begin(), changes.end());
      bound_locked(pending_);
    }
    const bool running = std::ranges::any_of(slots_, [](const Slot* slot) {
      return slot->inside.load(std::memory_order_seq_cst);
    });
    if (!pending_.empty() && (running || !batches_.empty())) {
      count_refills_locked(pending_);
      batch = start_batch_locked(std::exchange(pending_, {}));
    }
  }
  if (batch) {
    (void)make_batch(batch, underway);  // if it fails, the process has ended
  } else {
    wait_for(underway);
    if (earlier) wait_for_batches(earlier);
  }
}

}  // namespace ramet::vmm::process
