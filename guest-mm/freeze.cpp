// Freeze: all memory there is becomes a layer, which children share with us. It costs a table and a flush, whatever
// the size: the root leads to the tables there are, and forbids writing below; faults copy what is written.
#include <algorithm>

#include "guest-mm/address_space_impl.hpp"
#include "guest-mm/rcu.hpp"
#include "guest-mm/snapshot.hpp"

namespace ramet::mm {

bool AddressSpace::Impl::thaw_locked() {
  const bool frames_thawed = frames->thaw(), tables_thawed = tables->thaw();
  return frames_thawed || tables_thawed;
}

Result<std::shared_ptr<const Snapshot>> AddressSpace::freeze() {
  Impl& m = *impl_;
  auto snapshot = std::make_shared<Snapshot>();
  auto layer = std::make_shared<Layer>();
  FlushBatch batch = m.batch();
  std::lock_guard guard(m.lock);
  // The layer to stand on, held: it must not go while we look, or its frames would be in no layer of ours.
  while (!(layer->below = m.frames->last_layer()) && m.thaw_locked()) {
  }
  if (!layer->below) layer->below = memory_.layer();
  batch.settle_deferred();  // tables that merges took away are no part of it
  batch.commit();
  m.freezing.begin();
  std::atomic_thread_fence(std::memory_order_seq_cst);  // pairs with pin_fast()
  auto pinned = m.pinned_pages_locked(batch);
  batch.commit();
  const auto root = pinned ? m.table->copy_root(m.config.end) : fail(pinned.error());
  if (!root) {
    for (std::size_t i = 0; pinned && i < pinned->size(); ++i) m.frames->free((*pinned)[i].copy, 1);
    m.freezing.end();
    return fail(root.error());
  }
  layer->data = memory_.shared_data();
  layer->tables = memory_.shared_tables();
  layer->table_part = m.tables->seal();
  layer->data_parts = m.frames->seal();
  m.tables->sealed_for(layer);
  m.frames->sealed_for(layer);
  // Faults without the lock that found a table or a frame our own before it was sealed.
  rcu::synchronize();
  snapshot->census = m.table->census();
  m.table->share_root(m.config.end, batch);
  batch.commit();  // no vCPU writes to what is shared any more, pinned or not
  m.keep_pinned_locked(*pinned, batch);
  batch.commit();
  m.freezing.end();
  snapshot->layer = std::move(layer);
  snapshot->root = *root;
  m.tables->retire(*root);  // it is the layer's
  for (const Region* r = m.regions.at_or_after(0); r; r = m.regions.next(*r)) snapshot->regions.push_back(*r);
  snapshot->config = m.config;
  counters_.freezes.add();
  return snapshot;
}

Result<> AddressSpace::adopt(std::shared_ptr<const Snapshot> snapshot) {
  Impl& m = *impl_;
  FlushBatch batch = m.batch();
  std::lock_guard guard(m.lock);
  if (m.regions.size() != 0 || snapshot->config.format != m.config.format) return fail(Error::Invalid);
  if (auto stands = memory_.inherit(snapshot->layer); !stands) return stands;
  m.config.start = snapshot->config.start;
  m.config.end = snapshot->config.end;
  m.config.mmap_top = snapshot->config.mmap_top;
  m.config.stack_limit = snapshot->config.stack_limit;
  m.regions.search_in(m.config.start, m.config.mmap_top);
  m.table->adopt_root(snapshot->root, m.config.end, snapshot->census);
  for (const Region& r : snapshot->regions) {
    if (r.dont_fork) {
      if (auto cut = m.table->own_ends(r.start, r.end, batch); !cut) {
        batch.commit();
        return cut;
      }
      m.table->unmap(r.start, r.end, batch);
      continue;
    }
    if (auto has = m.attach_locked(r); !has) {
      batch.commit();
      return has;
    }
    m.regions.insert(r);
  }
  batch.commit();
  return {};
}

}  // namespace ramet::mm
