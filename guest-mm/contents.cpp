// Contents of an address space: visiting them, to be saved elsewhere, and building a space on what was saved.
#include <algorithm>

#include "guest-mm/address_space_impl.hpp"

namespace ramet::mm {

using State = PageTable::State;
using Level = PageTable::Level;

void AddressSpace::visit_contents(const std::function<void(const Region&, const Extent&)>& see) const {
  const SpaceCore& core = impl_->core;
  SpaceGuard guard(core.lock);
  for (const Region* r = core.regions.at_or_after(0); r; r = core.regions.next(*r)) {
    if (r->shows_object()) continue;
    Extent extent;
    core.table->visit(r->start, r->end, [&](const PageTable::Leaf& leaf) {
      const Gva start = std::max(leaf.start, r->start), end = std::min(leaf.end(), r->end);
      const Gpa frame = leaf.address + (start - leaf.start);
      const std::uint64_t bytes = extent.pages << kPageShift;
      if (extent.pages && extent.start + bytes == start && extent.frame + bytes == frame) {
        extent.pages += (end - start) >> kPageShift;
        return;
      }
      if (extent.pages) see(*r, extent);
      extent = {start, frame, (end - start) >> kPageShift};
    });
    if (extent.pages) see(*r, extent);
  }
}

Result<> Layers::map_extent_locked(const Region& region, const Extent& s, FlushBatch& batch) {
  PageTable& table = *core_.table;
  if (!is_aligned(s.start | s.frame, kPageSize) || region.shows_object() || s.start < region.start ||
      s.start >= region.end || s.pages == 0 || s.pages > (region.end - s.start) >> kPageShift) {
    return fail(Error::Invalid);
  }
  const std::uint64_t bytes = s.pages << kPageShift;
  const auto bank = core_.memory.inherited(s.frame) ? core_.memory.bank_of(s.frame) : nullptr;
  if (!bank || bank->end() - s.frame < bytes) return fail(Error::Invalid);
  const auto attributes = rules_.attributes(region, Access::Read, s.frame);
  const Gva end = s.start + bytes;
  for (Gva at = s.start; at < end;) {
    const Gpa frame = s.frame + (at - s.start);
    const bool block = rules_.takes_blocks(region) && is_aligned(at | frame, kBlockSize) && end - at >= kBlockSize;
    const Level level = block ? Level::Pmd : Level::Pte;
    const std::uint64_t span = arch::span_of(level), reach = span * arch::kEntriesPerTable;
    Gva stop = std::min(align_down(end, span), align_down(at, reach) + reach);
    // Small pages end where blocks can begin.
    if (!block && rules_.takes_blocks(region) && is_aligned(at - frame, kBlockSize))
      stop = std::min(stop, align_down(at, kBlockSize) + kBlockSize);
    const auto where = table.prepare(at, level, batch);
    if (!where) return fail(where.error());
    table.map(*where, at, level, frame, static_cast<unsigned>((stop - at) / span), attributes, batch);
    at = stop;
  }
  if (region.prot == Prot::None) {
    table.update(s.start, end, [](const PageTable::Leaf&) { return PageTable::Change{State::Kept}; }, batch);
  }
  return {};
}

bool Layers::sound_locked(const Region& r, Gva after) const {
  return r.start >= after && r.start < r.end && r.end <= core_.config.end &&
         is_aligned(r.start | r.end | r.offset, kPageSize) && has(kAllProt, r.max_prot) && has(r.max_prot, r.prot) &&
         (!r.shared || (r.backing && r.backing->shared().bank));
}

Result<> Layers::build_locked(std::span<const Region> regions, std::span<const Extent> contents, FlushBatch& batch) {
  Gva last = core_.config.start;
  auto next = contents.begin();
  for (const Region& r : regions) {
    if (!sound_locked(r, last)) return fail(Error::Invalid);
    if (auto known = banks_.attach_locked(r); !known) return known;
    for (Gva done = r.start; next != contents.end() && next->start < r.end; ++next) {
      if (next->start < done) return fail(Error::Invalid);
      if (auto mapped = map_extent_locked(r, *next, batch); !mapped) return mapped;
      done = next->start + (next->pages << kPageShift);
    }
    core_.regions.insert(r);
    last = r.end;
  }
  return next == contents.end() ? Result<>{} : fail(Error::Invalid);
}

Result<> AddressSpace::restore(std::shared_ptr<const Layer> layer, Gva mmap_top, std::span<const Region> regions,
                               std::span<const Extent> contents) {
  return impl_->layers.restore(std::move(layer), mmap_top, regions, contents);
}

Result<> Layers::restore(std::shared_ptr<const Layer> layer, Gva mmap_top, std::span<const Region> regions,
                         std::span<const Extent> contents) {
  AddressSpace::Config& config = core_.config;
  FlushBatch batch = core_.locked();
  if (core_.regions.size() != 0 || regions.size() > config.max_regions || !is_aligned(mmap_top, kPageSize) ||
      mmap_top <= config.start || mmap_top > config.end) {
    return fail(Error::Invalid);
  }
  if (layer) {
    if (auto stands = core_.memory.inherit(std::move(layer)); !stands) return stands;
  }
  config.mmap_top = mmap_top;
  core_.regions.search_in(config.start, mmap_top);
  auto built = build_locked(regions, contents, batch);
  batch.commit();
  return built;
}

Gva AddressSpace::mmap_top() const {
  SpaceGuard guard(impl_->core.lock);
  return impl_->core.config.mmap_top;
}

std::int64_t AddressSpace::pins() const { return impl_->core.pins->total(); }

}  // namespace ramet::mm
