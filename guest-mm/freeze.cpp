// Freeze: all memory becomes a layer, which children share with us. It costs a table and a flush, whatever the size:
// the entries of the root forbid writing below from then on, and faults copy what is written.
#include <algorithm>

#include "guest-mm/address_space_impl.hpp"
#include "guest-mm/rcu.hpp"

namespace ramet::mm {

// Thaws tables before frames, as a layer may die in between: a writable table must imply writable frames
// (Walker::unshare_child()), not vice versa.
bool SpaceCore::thaw_locked() {
  const bool tables_thawed = tables->thaw(), frames_thawed = frames->thaw();
  return tables_thawed || frames_thawed;
}

// The layers that the page table still references. After many forks most layers are fully copied, yet each costs a
// child memslots and the host the frames. Speculative faults meanwhile only drop references.
std::vector<Layer::Below> Layers::referred_to_locked(std::vector<Layer::Below> layers) const {
  const Layer::Places places = Layer::places(layers);
  std::vector<bool> has_data(layers.size()), has_tables(layers.size());
  core_.table->dump([&](const PageTable::Node& node) {
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

std::shared_ptr<Layer> Layers::next_layer_locked() {
  const std::size_t many = core_.config.many_layers;
  auto layer = std::make_shared<Layer>();
  // Holds the newest layer while the list is made; if it has died, its seal is undone first.
  std::shared_ptr<const Layer> upon;
  while (!(upon = core_.frames->last_layer()) && core_.thaw_locked()) {}
  if (!upon) upon = core_.memory.layer();
  layer->below = Layer::from(upon);
  if (was_reset_) Layer::join(layer->below, Layer::from(core_.memory.layer()));
  layer->look_at = std::max(many, upon ? upon->look_at : 0);
  if (layer->below.size() >= layer->look_at) {
    layer->below = referred_to_locked(std::move(layer->below));
    layer->look_at = std::max(many, 2 * layer->below.size());
  }
  return layer;
}

Result<Layers::Sealed> Layers::seal_locked(FlushBatch& batch) {
  auto pinned = pinning_.pinned_pages_locked(batch);
  batch.commit();
  if (!pinned) return fail(pinned.error());
  const auto root = core_.table->copy_root(core_.config.end);
  auto parts = root ? core_.frames->seal() : fail(root.error());
  if (parts) return Sealed{.pinned = std::move(*pinned), .root = *root, .parts = std::move(*parts)};
  if (root) core_.tables->free(*root);
  for (const auto& page : *pinned) core_.frames->free(page.copy, 1);
  return fail(parts.error());
}

Result<std::shared_ptr<const FrozenMemory>> AddressSpace::freeze() { return impl_->layers.freeze(); }

Result<std::shared_ptr<const FrozenMemory>> Layers::freeze() {
  Memory& memory = core_.memory;
  PageTable& table = *core_.table;
  auto frozen = std::make_shared<FrozenMemory>();
  FlushBatch batch = core_.locked();
  auto layer = next_layer_locked();
  batch.take_deferred();  // tables that merges took away are no part of the layer
  batch.commit();
  SequenceCount& freezing = pinning_.freezing();
  freezing.begin();
  std::atomic_thread_fence(std::memory_order_seq_cst);  // pairs with Pinning::fast()
  auto sealed = seal_locked(batch);
  if (!sealed) {
    freezing.end();
    return fail(sealed.error());
  }
  layer->data = memory.data_bank();
  layer->tables = memory.table_bank();
  layer->table_part = core_.tables->seal();
  layer->data_parts = std::move(sealed->parts);
  core_.tables->sealed_for(layer);
  core_.frames->sealed_for(layer);
  // Waits for faults without the lock that found a table writable, or a frame exclusive, before the seal.
  rcu::synchronize();
  frozen->census = table.census();
  table.share_root(core_.config.end, batch);
  if (memory.data().has_files()) memory.files_closed();
  batch.commit();  // no vCPU writes to what is shared any more, pinned or not
  pinning_.keep_pinned_locked(sealed->pinned, batch);
  freezing.end();
  frozen->layer = std::move(layer);
  frozen->root = sealed->root;
  core_.tables->retire(sealed->root);  // sealed: it stays with the layer until the seal is undone
  const RegionMap& regions = core_.regions;
  for (const Region* r = regions.at_or_after(0); r; r = regions.next(*r))
    frozen->regions.emplace_back(*r).locked = false;
  frozen->config = core_.config;
  frozen->hot = copies_.hot().at_freeze();
  core_.counters.freezes.add();
  return frozen;
}

}  // namespace ramet::mm
