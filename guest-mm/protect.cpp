// mprotect: taking permission flushes strictly, giving it flushes relaxed; PROT_NONE keeps the pages' frames.
#include <algorithm>

#include "guest-mm/address_space_impl.hpp"

namespace ramet::mm {

Result<> AddressSpace::protect(Gva address, std::uint64_t length, Prot prot) {
  Impl& m = *impl_;
  if (!is_aligned(address, kPageSize)) return fail(Error::Invalid);
  if (length == 0) return {};  // as mprotect(2)
  if (!m.core.user_range(address, length)) return fail(Error::NotMapped);
  const Gva last = address + length;

  FlushBatch batch = m.core.locked();
  // What changes ends at the first hole, or at the first region that may not have that protection.
  Result<> whole;
  bool differs = false;
  Gva end = address;
  while (end < last && whole) {
    const Region* r = m.core.regions.find(end);
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
  if (!m.core.regions.has_room(address, end, 0)) return fail(Error::NoMemory);
  m.core.regions.seize(address, end);
  auto split = m.core.split_ends_locked(address, end, batch);
  if (split) split = m.core.table->unshare_range(address, end, batch);
  if (!split) {
    batch.commit();
    m.core.regions.release(address, end);
    return split;
  }
  m.core.regions.change(address, end, [&](Region& region) RAMET_REQUIRES(address_space_lock) {
    region.prot = prot;
    m.core.table->update(
        region.start, region.end, [&](const PageTable::Leaf& leaf) { return m.rules.protection(region, leaf); }, batch);
  });
  batch.commit();
  return whole;
}

}  // namespace ramet::mm
