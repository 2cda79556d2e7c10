#include "vmm/process/mirror.hpp"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <iterator>

namespace ramet::vmm::process {
namespace {

// How far around a fault one mapping reaches: a table's worth of pages.
constexpr std::uint64_t kReach = mm::kBlockSize;
// More pieces than these are taken away with what lies between them: one call, and that comes again when it is touched.
constexpr std::size_t kMostPieces = 24;

Command unmap(mm::Gva start, mm::Gva end) { return {SYS_munmap, {start, end - start}}; }

}  // namespace

void Mirror::add(Slot& slot) {
  std::lock_guard guard(lock_);
  slots_.push_back(&slot);
}

void Mirror::remove(Slot& slot) {
  std::lock_guard guard(lock_);
  std::erase(slots_, &slot);
}

Mirror::Counts Mirror::counts() const {
  std::lock_guard guard(lock_);
  Counts now = counts_;
  now.mappings = mappings_.size();
  return now;
}

// --- what is noted ---

std::vector<Mirror::Range> Mirror::cut_locked(mm::Gva start, mm::Gva end) {
  std::vector<Range> gone;
  auto at = mappings_.upper_bound(start);
  if (at != mappings_.begin()) --at;
  while (at != mappings_.end() && at->first < end) {
    const mm::Gva first = at->first;
    const Mapping whole = at->second;
    if (whole.end <= start) {
      ++at;
      continue;
    }
    at = mappings_.erase(at);
    if (first < start) {
      Mapping before = whole;
      before.end = start;
      mappings_.emplace(first, before);
    }
    if (whole.end > end) {
      Mapping behind = whole;
      behind.offset += end - first;
      at = mappings_.emplace(end, behind).first;
    }
    const Range range{std::max(first, start), std::min(whole.end, end)};
    if (!gone.empty() && gone.back().end == range.start) gone.back().end = range.end;
    else gone.push_back(range);
  }
  return gone;
}

void Mirror::note_locked(mm::Gva start, const Mapping& mapping) {
  (void)cut_locked(start, mapping.end);  // it is mapped over
  Mapping m = mapping;
  const auto continues = [](const Mapping& a, mm::Gva a_start, const Mapping& b, mm::Gva b_start) {
    return a.end == b_start && a.descriptor == b.descriptor && a.protection == b.protection && a.offset + (b_start - a_start) == b.offset;
  };
  auto next = mappings_.lower_bound(start);
  if (next != mappings_.end() && continues(m, start, next->second, next->first)) {
    m.end = next->second.end;
    next = mappings_.erase(next);
  }
  if (next != mappings_.begin()) {
    const auto before = std::prev(next);
    if (continues(before->second, before->first, m, start)) {
      before->second.end = m.end;
      return;
    }
  }
  mappings_.emplace(start, m);
}

std::vector<Command> Mirror::unmap_locked(std::vector<Range> ranges) {
  if (ranges.size() > kMostPieces) {
    std::ranges::sort(ranges, {}, &Range::start);
    const Range all{ranges.front().start, std::ranges::max(ranges, {}, &Range::end).end};
    (void)cut_locked(all.start, all.end);
    note_underway_locked();
    ranges = {all};
  }
  std::vector<Command> commands;
  for (const Range& r : ranges) commands.push_back(unmap(r.start, r.end));
  return commands;
}

// --- filling ---

std::optional<std::pair<mm::Gva, Mirror::Mapping>> Mirror::fill_locked(const Wish& wish, Missing& missing) {
  const auto t = space_.translate(wish.address, kReach);
  if (!t || !t->allows(wish.access)) return std::nullopt;
  const mm::Gva page = mm::align_down(wish.address, mm::kPageSize);
  const mm::Gpa frame = t->frame + (page - t->start);
  const auto bank = memory_.bank_of(frame);
  const mm::FilePart part = bank ? bank->file_at(frame) : mm::FilePart{};
  if (!part.file) {
    missing.none = true;
    return std::nullopt;
  }
  // Consecutive frames may lie in several banks or files: the mapping ends where the page's own does.
  const mm::Gva end = std::min(t->start + t->bytes, page + part.bytes);
  std::uint64_t before = std::min(page - t->start, frame - bank->base());
  if (const auto first = bank->file_at(frame - before); first.file != part.file || first.bytes <= before) before = 0;
  const bool writable = t->write || (!bank->read_only() && part.file->writable() && !part.file->closed());
  const auto given = files_.find({part.file->id(), writable});
  if (given == files_.end()) {
    missing = {part.file, writable};
    return std::nullopt;
  }
  return std::pair{page - before, Mapping{.end = end, .descriptor = given->second.number, .offset = part.offset - before,
                                          .protection = PROT_READ | (t->write ? PROT_WRITE : 0ull) | (t->execute ? PROT_EXEC : 0ull)}};
}

std::expected<void, int> Mirror::give(const Missing& missing) {
  std::lock_guard one_at_a_time(giving_);
  const std::pair key{missing.file->id(), missing.writable};
  std::vector<int> unused;
  {
    std::lock_guard guard(lock_);
    if (files_.contains(key)) return {};
    for (auto at = files_.begin(); at != files_.end();) {
      if (at->second.file.expired()) {
        unused.push_back(at->second.number);
        at = files_.erase(at);
      } else {
        ++at;
      }
    }
  }
  for (const int number : unused)
    if (auto done = child_.take_back(number); !done) return done;
  int descriptor = missing.file->descriptor();
  if (!missing.writable) {
    const auto other = missing.file->read_only();
    if (!other) return std::unexpected(EMFILE);
    descriptor = *other;
  }
  auto number = child_.give(descriptor);
  if (!number && number.error() == EMFILE) {
    // Mappings stay without their descriptors, and those come again when something is mapped by them.
    if (auto done = take_all_back(false); !done) return done;
    number = child_.give(descriptor);
  }
  if (!number) return std::unexpected(number.error());
  std::lock_guard guard(lock_);
  files_.emplace(key, Given{missing.file, *number});
  return {};
}

std::expected<std::optional<std::size_t>, int> Mirror::enter(Slot& slot, std::optional<Wish> wish, std::vector<Command> commands) {
  for (;;) {
    Missing missing;
    std::optional<Underway> settling;
    {
      std::lock_guard guard(lock_);
      for (const Slot* other : slots_) {
        if (other == &slot || !other->settling || other->context.applied(other->list)) continue;
        settling = Underway{other->context, other->list};
      }
      if (!settling) {
        if (mappings_.size() >= capacity_) drop_all_locked();
        slot.filling.reset();
        std::optional<std::pair<mm::Gva, Mapping>> fill;
        if (wish) fill = fill_locked(*wish, missing);
        if (missing.none) return std::unexpected(ENXIO);
        if (!missing.file) {
          std::optional<std::size_t> command;
          slot.settling = !pending_.empty();
          // Away first: what is filled on this way may lie there.
          const auto away = unmap_locked(std::exchange(pending_, {}));
          commands.insert(commands.end(), away.begin(), away.end());
          if (fill) {
            const auto& [start, m] = *fill;
            note_locked(start, m);
            ++counts_.fills;
            command = commands.size();
            commands.push_back({SYS_mmap, {start, m.end - start, m.protection, MAP_SHARED | MAP_FIXED,
                                           static_cast<std::uint64_t>(m.descriptor), m.offset}});
            slot.filling = fill;
          }
          slot.inside.store(true, std::memory_order_seq_cst);
          slot.context.prepare(commands, Then::Guest);
          slot.list = slot.context.go();
          return command;
        }
      }
    }
    if (settling && !wait_applied(settling->context, settling->list)) return std::unexpected(ESRCH);
    if (missing.file) {
      if (auto given = give(missing); !given) return std::unexpected(given.error());
    }
  }
}

void Mirror::drop_all_locked() {
  mappings_.clear();
  note_underway_locked();
  pending_ = {{0, RAMET_USER_END}};
  ++counts_.evictions;
}

void Mirror::note_underway_locked() {
  for (const Slot* slot : slots_)
    if (slot->filling && !slot->context.applied(slot->list)) note_locked(slot->filling->first, slot->filling->second);
}

void Mirror::evict() {
  std::lock_guard guard(lock_);
  drop_all_locked();
}

// --- taking away ---

// Looks, and lets the thread have the processor meanwhile: it has only calls to make, and nothing of ours to wait for.
bool Mirror::wait_applied(const Context& context, std::uint32_t list) {
  Child::Patience patience(child_);
  for (unsigned rounds = 0; !context.applied(list); ++rounds) {
    if (rounds < 200) {
      __builtin_ia32_pause();
    } else if (rounds < 1200) {
      ::usleep(20);
    } else {
      ::usleep(100'000);
      if (!patience()) return false;
    }
  }
  return true;
}

void Mirror::wait_for(const std::vector<Underway>& lists) {
  // One that does not answer has been killed, and maps nothing any more.
  for (const Underway& u : lists) (void)wait_applied(u.context, u.list);
}

void Mirror::flush(std::span<const mm::FlushRequest::Range> ranges, bool everything) {
  std::vector<Command> commands;
  std::vector<Underway> underway;
  {
    std::lock_guard guard(lock_);
    std::vector<Range> gone;
    const mm::FlushRequest::Range all{0, RAMET_USER_END};
    if (everything) ranges = {&all, 1};
    bool running = false;
    for (const Slot* slot : slots_) {
      running = running || slot->inside.load(std::memory_order_seq_cst);
      if (!slot->filling || slot->context.applied(slot->list)) continue;
      const bool touched = std::ranges::any_of(ranges, [&](const auto& r) { return slot->filling->first < r.end && r.start < slot->filling->second.end; });
      if (touched) underway.push_back({slot->context, slot->list});
    }
    for (const auto& r : ranges) {
      if (r.start >= RAMET_USER_END) continue;
      for (const Range& piece : cut_locked(r.start, std::min<mm::Gva>(r.end, RAMET_USER_END))) gone.push_back(piece);
    }
    if (gone.empty() && underway.empty()) return;
    if (!running) {
      pending_.insert(pending_.end(), gone.begin(), gone.end());
      return;
    }
    commands = unmap_locked(std::move(gone));
  }
  wait_for(underway);
  if (commands.empty() || child_.carry_out(commands)) return;
  // It has ended, or has so many mappings that none can be cut; all of them can go.
  {
    std::lock_guard guard(lock_);
    mappings_.clear();
    note_underway_locked();
  }
  const Command all = unmap(0, RAMET_USER_END);
  (void)child_.carry_out({&all, 1});
}

std::expected<void, int> Mirror::take_all_back(bool mappings) {
  std::vector<Underway> underway;
  {
    std::lock_guard guard(lock_);
    files_.clear();
    // They may map by a number that is then another file's.
    for (const Slot* slot : slots_)
      if (slot->filling && !slot->context.applied(slot->list)) underway.push_back({slot->context, slot->list});
  }
  wait_for(underway);
  if (auto done = child_.take_all_back(); !done || !mappings) return done;
  {
    std::lock_guard guard(lock_);
    mappings_.clear();
    note_underway_locked();
  }
  const Command all = unmap(0, RAMET_USER_END);
  return child_.carry_out({&all, 1});
}

void Mirror::close_writable() {
  std::lock_guard one_at_a_time(giving_);  // what is given meanwhile would be closed, and still be noted
  {
    std::lock_guard guard(lock_);
    const bool any = std::ranges::any_of(files_, [](const auto& given) {
      const auto file = given.second.file.lock();
      return given.first.second && file && file->closed();
    });
    if (!any) return;
  }
  (void)take_all_back(true);  // if it fails, the process has ended
}

}  // namespace ramet::vmm::process
