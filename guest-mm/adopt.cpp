// Standing on frozen memory: becoming a child of it, and going back to it.
#include <algorithm>

#include "guest-mm/address_space_impl.hpp"

namespace ramet::mm {

// Whether faults and changes of protection treat both regions alike.
static bool same(const Region& a, const Region& b) {
  return a.start == b.start && a.end == b.end && a.prot == b.prot && a.shared == b.shared &&
         a.grows_down == b.grows_down && a.dont_fork == b.dont_fork && a.wipe_on_fork == b.wipe_on_fork &&
         a.locked == b.locked && a.huge == b.huge && a.backing == b.backing && a.offset == b.offset &&
         a.name == b.name && a.max_prot == b.max_prot;
}

// The regions that a child of frozen memory begins with.
static std::vector<const Region*> inherited_regions(const FrozenMemory& frozen) {
  std::vector<const Region*> regions;
  for (const Region& r : frozen.regions)
    if (!r.dont_fork) regions.push_back(&r);
  return regions;
}

// Whether a child does not inherit the region's contents.
static bool is_left_out(const Region& r) { return r.dont_fork || r.wipe_on_fork; }

Result<> Layers::leave_out_locked(const FrozenMemory& frozen, FlushBatch& batch) {
  for (const Region& r : frozen.regions) {
    if (!is_left_out(r)) continue;
    if (auto cut = core_.table->unshare_ends(r.start, r.end, batch); !cut) return cut;
    core_.table->unmap(r.start, r.end, batch);
  }
  return {};
}

Result<> AddressSpace::adopt(const std::shared_ptr<const FrozenMemory>& frozen) { return impl_->layers.adopt(*frozen); }

Result<> Layers::adopt(const FrozenMemory& frozen) {
  FlushBatch batch = core_.locked();
  AddressSpace::Config& config = core_.config;
  if (core_.regions.size() != 0 || frozen.config.format != config.format) return fail(Error::Invalid);
  if (auto stands = core_.memory.inherit(frozen.layer); !stands) return stands;
  config.start = frozen.config.start;
  config.end = frozen.config.end;
  config.mmap_top = frozen.config.mmap_top;
  config.stack_limit = frozen.config.stack_limit;
  core_.regions.search_in(config.start, config.mmap_top);
  core_.table->adopt_root(frozen.root, config.end, frozen.census);
  auto done = leave_out_locked(frozen, batch);
  for (const Region* r : inherited_regions(frozen)) {
    if (done) done = banks_.attach_locked(*r);
    if (done) core_.regions.insert(*r);
  }
  batch.commit();
  return done;
}

Result<> AddressSpace::reset(const FrozenMemory& frozen) { return impl_->layers.reset(frozen); }

Result<> Layers::prepare_reset_locked(const FrozenMemory& frozen, const std::vector<const Region*>& before,
                                      FlushBatch& batch) {
  if (core_.pins->any()) return fail(Error::Pinned);
  // At both ends of a region that is left out, tables of three levels are copied.
  const auto left_out = std::ranges::count_if(frozen.regions, is_left_out);
  if (auto possible = core_.tables->reserve(6 * static_cast<std::uint64_t>(left_out)); !possible) return possible;
  return banks_.attach_all_locked(before, batch);
}

void Layers::reset_regions_locked(const std::vector<const Region*>& before, FlushBatch& batch) {
  RegionMap& regions = core_.regions;
  const Gva start = core_.config.start, end = core_.config.end;
  std::size_t alike = 0;
  for (const Region* r = regions.at_or_after(0); r && alike < before.size() && same(*r, *before[alike]); ++alike)
    r = regions.next(*r);
  if (alike == before.size() && alike == regions.size()) {
    for (const Region* r : before) banks_.detach_locked(*r, batch);  // a reset attaches them anew
    return regions.release(start, end);
  }
  regions.remove(start, end, [&](const Region& gone) RAMET_REQUIRES(address_space_lock) {
    if (gone.backing) batch.keep(gone.backing);
    banks_.detach_locked(gone, batch);
  });
  for (const Region* r : before) regions.insert(*r);
  batch.release_regions(regions.take_retired());
}

Result<> Layers::reset(const FrozenMemory& frozen) {
  FlushBatch batch = core_.locked();
  if (frozen.layer != core_.memory.layer()) return fail(Error::Invalid);
  const auto before = inherited_regions(frozen);
  SequenceCount& freezing = pinning_.freezing();
  freezing.begin();
  std::atomic_thread_fence(std::memory_order_seq_cst);  // pairs with Pinning::fast()
  if (auto possible = prepare_reset_locked(frozen, before, batch); !possible) {
    freezing.end();
    return possible;
  }
  core_.regions.seize(core_.config.start, core_.config.end);
  batch.take_deferred();
  core_.table->restore_root(frozen.root, core_.config.end, frozen.census, batch);
  batch.commit();
  freezing.end();
  auto done = leave_out_locked(frozen, batch);
  reset_regions_locked(before, batch);
  core_.config.stack_limit = frozen.config.stack_limit;
  was_reset_ = true;
  batch.commit();
  core_.counters.resets.add();
  return done;
}

}  // namespace ramet::mm
