// What an address space holds, for whoever keeps it elsewhere: visiting it, and building a space on what was kept.
#include <algorithm>

#include "guest-mm/address_space_impl.hpp"

namespace ramet::mm {

using State = PageTable::State;
using Level = PageTable::Level;

void AddressSpace::visit_contents(const std::function<void(const Region&, const Stretch&)>& see) const {
  const Impl& m = *impl_;
  SpaceGuard guard(m.lock);
  for (const Region* r = m.regions.at_or_after(0); r; r = m.regions.next(*r)) {
    if (r->shared && r->backing) continue;
    Stretch stretch;
    m.table->visit(r->start, r->end, [&](const PageTable::Leaf& leaf) {
      const Gva start = std::max(leaf.start, r->start), end = std::min(leaf.end(), r->end);
      const Gpa frame = leaf.address + (start - leaf.start);
      const std::uint64_t bytes = stretch.pages << kPageShift;
      if (stretch.pages && stretch.start + bytes == start && stretch.frame + bytes == frame) {
        stretch.pages += (end - start) >> kPageShift;
        return;
      }
      if (stretch.pages) see(*r, stretch);
      stretch = {start, frame, (end - start) >> kPageShift};
    });
    if (stretch.pages) see(*r, stretch);
  }
}

Result<> AddressSpace::Impl::map_stretch_locked(const Region& region, const Stretch& s, FlushBatch& batch) {
  if (!is_aligned(s.start | s.frame, kPageSize) || (region.shared && region.backing) || s.start < region.start ||
      s.start >= region.end || s.pages == 0 || s.pages > (region.end - s.start) >> kPageShift) {
    return fail(Error::Invalid);
  }
  const std::uint64_t bytes = s.pages << kPageShift;
  const auto bank = memory.inherited(s.frame) ? memory.bank_of(s.frame) : nullptr;
  if (!bank || bank->end() - s.frame < bytes) return fail(Error::Invalid);
  const auto attributes = this->attributes(region, Access::Read, s.frame);
  const Gva end = s.start + bytes;
  for (Gva at = s.start; at < end;) {
    const Gpa frame = s.frame + (at - s.start);
    const bool block = takes_blocks(region) && is_aligned(at | frame, kBlockSize) && end - at >= kBlockSize;
    const Level level = block ? Level::Pmd : Level::Pte;
    const std::uint64_t span = arch::span_of(level), reach = span * arch::kEntriesPerTable;
    Gva stop = std::min(align_down(end, span), align_down(at, reach) + reach);
    // Small pages end where blocks can begin.
    if (!block && takes_blocks(region) && is_aligned(at - frame, kBlockSize))
      stop = std::min(stop, align_down(at, kBlockSize) + kBlockSize);
    if (auto ready = table->prepare(at, level, batch); !ready) return ready;
    table->map(at, level, frame, static_cast<unsigned>((stop - at) / span), attributes, batch);
    at = stop;
  }
  if (region.prot == Prot::None) {
    table->update(s.start, end, [](const PageTable::Leaf&) { return PageTable::Change{State::Kept}; }, batch);
  }
  return {};
}

Result<> AddressSpace::restore(std::shared_ptr<const Layer> layer, Gva mmap_top, std::span<const Region> regions,
                               std::span<const Stretch> contents) {
  Impl& m = *impl_;
  FlushBatch batch = m.locked();
  if (m.regions.size() != 0 || regions.size() > m.config.max_regions || !is_aligned(mmap_top, kPageSize) ||
      mmap_top <= m.config.start || mmap_top > m.config.end) {
    return fail(Error::Invalid);
  }
  if (layer) {
    if (auto stands = memory_.inherit(std::move(layer)); !stands) return stands;
  }
  m.config.mmap_top = mmap_top;
  m.regions.search_in(m.config.start, mmap_top);
  const auto build = [&]() RAMET_REQUIRES(address_space_lock) -> Result<> {
    Gva last = m.config.start;
    auto next = contents.begin();
    for (const Region& r : regions) {
      if (r.start < last || r.start >= r.end || r.end > m.config.end ||
          !is_aligned(r.start | r.end | r.offset, kPageSize) || !has(kAllProt, r.max_prot) ||
          !has(r.max_prot, r.prot) || (r.shared && !(r.backing && r.backing->shared().bank))) {
        return fail(Error::Invalid);
      }
      if (auto known = m.attach_locked(r); !known) return known;
      for (Gva done = r.start; next != contents.end() && next->start < r.end; ++next) {
        if (next->start < done) return fail(Error::Invalid);
        if (auto mapped = m.map_stretch_locked(r, *next, batch); !mapped) return mapped;
        done = next->start + (next->pages << kPageShift);
      }
      m.regions.insert(r);
      last = r.end;
    }
    return next == contents.end() ? Result<>{} : fail(Error::Invalid);
  };
  auto built = build();
  batch.commit();
  return built;
}

Gva AddressSpace::mmap_top() const {
  SpaceGuard guard(impl_->lock);
  return impl_->config.mmap_top;
}

std::int64_t AddressSpace::pins() const { return impl_->pins->total(); }

}  // namespace ramet::mm
