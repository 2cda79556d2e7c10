// madvise, msync and mincore.
#include <algorithm>
#include <vector>

#include "guest-mm/address_space_impl.hpp"
#include "guest-mm/host_memory.hpp"

namespace ramet::mm {

// Whether the advice is not for such a region.
static bool refuses(const Region& r, Advice advice) {
  if ((advice == Advice::DontNeed || advice == Advice::Free || advice == Advice::Cold) && r.locked) return true;
  return (advice == Advice::Free || advice == Advice::WipeOnFork) &&
         r.backing;  // anonymous memory only; what is shared has a backing
}

Result<> AddressSpace::advise(Gva address, std::uint64_t length, Advice advice) {
  Impl& m = *impl_;
  if (!is_aligned(address, kPageSize)) return fail(Error::Invalid);
  if (length == 0) return {};
  if (!m.core.user_range(address, length)) return fail(Error::NotMapped);
  Gva end = address + length;
  if (advice == Advice::PopulateRead) return m.faults.populate(address, end, Access::Read);
  if (advice == Advice::PopulateWrite) return m.faults.populate(address, end, Access::Write);

  FlushBatch batch = m.core.locked();
  // A hole is reported after the rest has been advised. A region that refuses the advice ends it.
  Result<> whole = m.core.regions.covered(address, end) ? Result<>() : fail(Error::NotMapped);
  for (const Region* r = m.core.regions.at_or_after(address); r && r->start < end; r = m.core.regions.next(*r)) {
    if (!refuses(*r, advice)) continue;
    whole = fail(Error::Invalid);
    if (r->start <= address) return whole;
    end = r->start;
  }
  const auto edit = [&](const std::function<void(Region&)>& change) RAMET_REQUIRES(address_space_lock) -> Result<> {
    const auto done = m.mappings.edit_locked(address, end, change, batch);
    return done ? whole : done;
  };
  switch (advice) {
    case Advice::Free:  // at once: the guest may find zeroes from now on, as MADV_FREE allows
    case Advice::DontNeed:
    case Advice::DontNeedLocked: {
      const auto done = m.mappings.drop_locked(address, end, batch);
      return done ? whole : done;
    }
    case Advice::Lock: return edit([](Region& r) { r.locked = true; });
    case Advice::Unlock: return edit([](Region& r) { r.locked = false; });
    case Advice::Huge: return edit([](Region& r) { r.huge = Region::Huge::Always; });
    case Advice::NoHuge: return edit([](Region& r) { r.huge = Region::Huge::Never; });
    case Advice::DontFork: return edit([](Region& r) { r.dont_fork = true; });
    case Advice::DoFork: return edit([](Region& r) { r.dont_fork = false; });
    case Advice::WipeOnFork: return edit([](Region& r) { r.wipe_on_fork = true; });
    case Advice::KeepOnFork: return edit([](Region& r) { r.wipe_on_fork = false; });
    case Advice::Cold:
    case Advice::WillNeed: return whole;  // nothing to read ahead or to put away: files are the host's to cache
    case Advice::PopulateRead:
    case Advice::PopulateWrite: break;  // handled above
  }
  return fail(Error::Invalid);
}

Result<> AddressSpace::sync(Gva address, std::uint64_t length, bool wait) {
  Impl& m = *impl_;
  if (!is_aligned(address, kPageSize)) return fail(Error::Invalid);
  if (length == 0) return {};
  if (!m.core.user_range(address, length)) return fail(Error::NotMapped);
  const Gva end = address + length;
  struct Part {
    std::shared_ptr<Backing> backing;
    std::uint64_t offset, length;
  };
  std::vector<Part> parts;
  Result<> result;
  {
    SpaceGuard guard(m.core.lock);
    if (!m.core.regions.covered(address, end)) result = fail(Error::NotMapped);  // after syncing what there is
    for (const Region* r = m.core.regions.at_or_after(address); r && r->start < end; r = m.core.regions.next(*r)) {
      if (!r->shows_object()) continue;
      const Gva from = std::max(address, r->start), to = std::min(end, r->end);
      parts.push_back({r->backing, r->offset_of(from), to - from});
    }
  }
  // Without the lock: it may take as long as the disk takes.
  for (const Part& part : parts) {
    if (auto done = part.backing->sync(part.offset, part.length, wait); !done && result) result = done;
  }
  return result;
}

// A page that was mapped ahead counts as touched once it holds anything but zeroes: not every machine says which pages
// were accessed. One that was only read, or written with zeroes, counts as untouched.
bool EntryRules::touched(const PageTable::Leaf& leaf) const {
  if (!leaf.attributes.ahead) return true;
  alignas(std::uint64_t) std::array<std::byte, kPageSize> bytes;
  core_.memory.bring(leaf.address, bytes.size());
  return !copy_guarded(bytes.data(), core_.memory.host(leaf.address), bytes.size()) || !all_zero(bytes);
}

Result<> AddressSpace::residency(Gva address, std::uint64_t length, std::span<std::uint8_t> out) {
  Impl& m = *impl_;
  if (!is_aligned(address, kPageSize)) return fail(Error::Invalid);
  if (length == 0) return {};
  if (!m.core.user_range(address, length)) return fail(Error::NotMapped);
  if (out.size() < length >> kPageShift) return fail(Error::Invalid);
  const Gva end = address + length;
  const auto pages = [&](Gva from, Gva to) {
    return out.subspan((from - address) >> kPageShift, (to - from) >> kPageShift);
  };
  std::ranges::fill(pages(address, end), std::uint8_t{0});
  struct Part {
    std::shared_ptr<Backing> backing;
    std::uint64_t offset;
    std::span<std::uint8_t> out;
  };
  std::vector<Part> parts;
  {
    SpaceGuard guard(m.core.lock);
    if (!m.core.regions.covered(address, end)) return fail(Error::NotMapped);
    for (const Region* r = m.core.regions.at_or_after(address); r && r->start < end; r = m.core.regions.next(*r)) {
      const Gva from = std::max(address, r->start), to = std::min(end, r->end);
      if (r->backing) parts.push_back({r->backing, r->offset_of(from), pages(from, to)});
      if (r->shows_object()) continue;  // its pages are in memory if the object's are
      m.core.table->visit(from, to, [&](const PageTable::Leaf& leaf) {
        if (r->backing || m.rules.touched(leaf))
          std::ranges::fill(pages(std::max(from, leaf.start), std::min(to, leaf.end())), std::uint8_t{1});
      });
    }
  }
  for (const Part& part : parts) part.backing->residency(part.offset, part.out);  // host calls: without the lock
  return {};
}

}  // namespace ramet::mm
