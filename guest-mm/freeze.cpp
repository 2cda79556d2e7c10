// Freeze: all memory there is becomes a layer, which children share with us. It costs a table and a flush, whatever
// the size: the root leads to the tables there are, and forbids writing below; faults copy what is written.
#include <algorithm>

#include "guest-mm/address_space_impl.hpp"
#include "guest-mm/rcu.hpp"
#include "guest-mm/snapshot.hpp"

namespace ramet::mm {

// The tables first, as a layer's last user may go between the two: tables that are our own again lead to frames that are
// (see Walker::own_child). The other way round nothing is taken for granted.
bool AddressSpace::Impl::thaw_locked() {
  const bool tables_thawed = tables->thaw(), frames_thawed = frames->thaw();
  return tables_thawed || frames_thawed;
}

// Those of the layers that our tables, or those that we share, still lead to. After many generations most have nothing
// any more that was not copied since; each would cost a child memory slots, and the host its frames. Faults without the
// lock take references away meanwhile, and add none.
std::vector<Layer::Below> AddressSpace::Impl::referred_to_locked(std::vector<Layer::Below> layers) const {
  const Layer::Places places = Layer::places(layers);
  std::vector<bool> has_data(layers.size()), has_tables(layers.size());
  table->dump([&](const PageTable::Node& node) {
    const Gpa start = node.leaf.address, end = start + (node.table ? kPageSize : node.leaf.span());
    const auto& of_kind = node.table ? places.tables : places.data;
    auto place = of_kind.upper_bound(start);
    if (place != of_kind.begin()) --place;
    for (; place != of_kind.end() && place->first < end; ++place)
      if (place->second.end > start) (node.table ? has_tables : has_data)[place->second.layer] = true;
  });
  std::vector<Layer::Below> referred;
  for (std::size_t i = 0; i < layers.size(); ++i)
    if (has_data[i] || has_tables[i]) referred.push_back({std::move(layers[i].layer), has_tables[i]});
  return referred;
}

Result<std::shared_ptr<const Snapshot>> AddressSpace::freeze() {
  Impl& m = *impl_;
  auto snapshot = std::make_shared<Snapshot>();
  auto layer = std::make_shared<Layer>();
  FlushBatch batch = m.locked();
  // The layer to stand on, held: it must not go while we look, or its frames would be in no layer of ours.
  std::shared_ptr<const Layer> upon;
  while (!(upon = m.frames->last_layer()) && m.thaw_locked()) {
  }
  if (!upon) upon = memory_.layer();
  layer->below = Layer::from(upon);
  if (m.was_reset) Layer::join(layer->below, Layer::from(memory_.layer()));
  layer->look_at = std::max(m.config.many_layers, upon ? upon->look_at : 0);
  if (layer->below.size() >= layer->look_at) {
    layer->below = m.referred_to_locked(std::move(layer->below));
    layer->look_at = std::max(m.config.many_layers, 2 * layer->below.size());
  }
  batch.settle_deferred();  // tables that merges took away are no part of it
  batch.commit();
  m.freezing.begin();
  std::atomic_thread_fence(std::memory_order_seq_cst);  // pairs with pin_fast()
  auto pinned = m.pinned_pages_locked(batch);
  batch.commit();
  const auto root = pinned ? m.table->copy_root(m.config.end) : fail(pinned.error());
  auto parts = root ? m.frames->seal() : fail(root.error());
  if (!parts) {
    if (root) m.tables->free(*root);
    for (std::size_t i = 0; pinned && i < pinned->size(); ++i) m.frames->free((*pinned)[i].copy, 1);
    m.freezing.end();
    return fail(parts.error());
  }
  layer->data = memory_.shared_data();
  layer->tables = memory_.shared_tables();
  layer->table_part = m.tables->seal();
  layer->data_parts = std::move(*parts);
  m.tables->sealed_for(layer);
  m.frames->sealed_for(layer);
  // Faults without the lock that found a table or a frame our own before it was sealed.
  rcu::synchronize();
  snapshot->census = m.table->census();
  m.table->share_root(m.config.end, batch);
  if (memory_.data().has_files()) memory_.files_closed();
  batch.commit();  // no vCPU writes to what is shared any more, pinned or not
  m.keep_pinned_locked(*pinned, batch);
  m.freezing.end();
  snapshot->layer = std::move(layer);
  snapshot->root = *root;
  m.tables->retire(*root);  // it is the layer's
  for (const Region* r = m.regions.at_or_after(0); r; r = m.regions.next(*r)) snapshot->regions.emplace_back(*r).locked = false;
  snapshot->config = m.config;
  snapshot->hot = m.hot.at_freeze();
  counters_.freezes.add();
  return snapshot;
}

// Whether faults and changes of protection find the same there.
static bool same(const Region& a, const Region& b) {
  return a.start == b.start && a.end == b.end && a.prot == b.prot && a.shared == b.shared &&
         a.grows_down == b.grows_down && a.dont_fork == b.dont_fork && a.wipe_on_fork == b.wipe_on_fork && a.locked == b.locked &&
         a.huge == b.huge && a.backing == b.backing && a.offset == b.offset && a.name == b.name && a.max_prot == b.max_prot;
}

// What a child of the snapshot begins with, besides tables.
static std::vector<const Region*> inherited_regions(const Snapshot& snapshot) {
  std::vector<const Region*> regions;
  for (const Region& r : snapshot.regions)
    if (!r.dont_fork) regions.push_back(&r);
  return regions;
}

// Whose contents are not inherited.
static bool is_left_out(const Region& r) { return r.dont_fork || r.wipe_on_fork; }

Result<> AddressSpace::Impl::leave_out_locked(const Snapshot& snapshot, FlushBatch& batch) {
  for (const Region& r : snapshot.regions) {
    if (!is_left_out(r)) continue;
    if (auto cut = table->own_ends(r.start, r.end, batch); !cut) return cut;
    table->unmap(r.start, r.end, batch);
  }
  return {};
}

Result<> AddressSpace::adopt(std::shared_ptr<const Snapshot> snapshot) {
  Impl& m = *impl_;
  FlushBatch batch = m.locked();
  if (m.regions.size() != 0 || snapshot->config.format != m.config.format) return fail(Error::Invalid);
  if (auto stands = memory_.inherit(snapshot->layer); !stands) return stands;
  m.config.start = snapshot->config.start;
  m.config.end = snapshot->config.end;
  m.config.mmap_top = snapshot->config.mmap_top;
  m.config.stack_limit = snapshot->config.stack_limit;
  m.regions.search_in(m.config.start, m.config.mmap_top);
  m.table->adopt_root(snapshot->root, m.config.end, snapshot->census);
  auto done = m.leave_out_locked(*snapshot, batch);
  for (const Region* r : inherited_regions(*snapshot)) {
    if (done) done = m.attach_locked(*r);
    if (done) m.regions.insert(*r);
  }
  batch.commit();
  return done;
}

Result<> AddressSpace::reset(const Snapshot& snapshot) {
  Impl& m = *impl_;
  FlushBatch batch = m.locked();
  if (snapshot.layer != memory_.layer()) return fail(Error::Invalid);
  const auto before = inherited_regions(snapshot);
  // First everything that can fail. Of each end of what is left out, the tables of three levels become our own.
  const auto left_out = std::ranges::count_if(snapshot.regions, is_left_out);
  m.freezing.begin();
  std::atomic_thread_fence(std::memory_order_seq_cst);  // pairs with pin_fast()
  Result<> possible;
  if (m.pins->any()) possible = fail(Error::Pinned);
  if (possible) possible = m.tables->reserve(6 * static_cast<std::uint64_t>(left_out));
  if (possible) possible = m.attach_all_locked(before, batch);
  if (!possible) {
    m.freezing.end();
    return possible;
  }
  const Gva start = m.config.start, end = m.config.end;
  m.regions.seize(start, end);
  batch.settle_deferred();
  m.table->restore_root(snapshot.root, end, snapshot.census, batch);
  batch.commit();
  m.freezing.end();
  auto done = m.leave_out_locked(snapshot, batch);
  std::size_t alike = 0;
  for (const Region* r = m.regions.at_or_after(0); r && alike < before.size() && same(*r, *before[alike]); ++alike) {
    r = m.regions.next(*r);
  }
  if (alike == before.size() && alike == m.regions.size()) {
    m.regions.release(start, end);
  } else {
    std::vector<std::shared_ptr<Backing>> unshared;
    m.regions.remove(start, end, [&](const Region& gone) {
      if (gone.backing) batch.keep(gone.backing);
      if (gone.backing && gone.shared) unshared.push_back(gone.backing);
    });
    for (const Region* r : before) m.regions.insert(*r);
    for (const auto& backing : unshared) m.detach_locked(*backing, batch);
    m.regions.reclaim();
  }
  m.config.stack_limit = snapshot.config.stack_limit;
  m.was_reset = true;
  batch.commit();
  counters_.resets.add();
  return done;
}

}  // namespace ramet::mm
