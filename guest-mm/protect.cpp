// mprotect: taking permission is strict, giving it is relaxed, PROT_NONE keeps what the pages hold.
#include <algorithm>

#include "guest-mm/address_space_impl.hpp"

namespace ramet::mm {

PageTable::Change AddressSpace::Impl::protection(const Region& region, const PageTable::Leaf& leaf) const {
  const auto& old = leaf.attributes;
  if (region.prot == Prot::None) return {PageTable::State::Kept, old};
  // A page that can be executed stays so where it may; one of a writable region as well, until the other access comes.
  const bool was_code = leaf.state == PageTable::State::Present && old.execute && !old.write;
  const Access as = has(region.prot, Prot::Exec) && was_code ? Access::Execute : Access::Write;
  auto next = attributes(region, as, leaf.address);
  next.dirty = next.dirty || old.dirty;
  next.ahead = old.ahead;
  if (next.deferred_exec && !old.deferred_exec) history(region, leaf.level).defer(MoveReason::Mapped, 1);
  return {PageTable::State::Present, next};
}

Result<> AddressSpace::protect(Gva address, std::uint64_t length, Prot prot) {
  Impl& m = *impl_;
  if (!is_aligned(address, kPageSize)) return fail(Error::Invalid);
  if (length == 0) return {};  // as mprotect(2)
  if (!m.user_range(address, length)) return fail(Error::NotMapped);
  const Gva last = address + length;

  FlushBatch batch = m.locked();
  // Up to a hole, or to what may not have that protection, and no further.
  Result<> whole;
  bool differs = false;
  Gva end = address;
  while (end < last && whole) {
    const Region* r = m.regions.find(end);
    if (!r) {
      whole = fail(Error::NotMapped);
    } else if (!has(r->max_prot, prot)) {
      whole = fail(Error::NotPermitted);
    } else {
      differs = differs || r->prot != prot;
      end = std::min(r->end, last);
    }
  }
  if (!differs) return whole;
  if (!m.regions.room(address, end, 0)) return fail(Error::NoMemory);
  m.regions.seize(address, end);
  auto split = m.split_ends_locked(address, end, batch);
  if (split) split = m.table->own_range(address, end, batch);
  if (!split) {
    batch.commit();
    m.regions.release(address, end);
    return split;
  }
  m.regions.change(address, end, [&](Region& region) RAMET_REQUIRES(address_space_lock) {
    region.prot = prot;
    m.table->update(region.start, region.end,
                    [&](const PageTable::Leaf& leaf) { return m.protection(region, leaf); }, batch);
  });
  batch.commit();
  return whole;
}

}  // namespace ramet::mm
