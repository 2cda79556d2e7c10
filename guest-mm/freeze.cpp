// Freeze: all memory there is becomes a layer, which children share with us. It costs a table and a flush, whatever
// the size: the new root leads to the old tables, and forbids writing below; faults copy what is written.
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
  m.thaw_locked();
  batch.settle_deferred();  // tables that merges took away are no part of it
  batch.commit();
  layer->below = m.frames->last_layer();
  if (!layer->below) layer->below = memory_.layer();
  layer->data = memory_.shared_data();
  layer->tables = memory_.shared_tables();
  layer->table_part = m.tables->seal();
  layer->data_parts = m.frames->seal();
  m.tables->sealed_for(layer);
  m.frames->sealed_for(layer);
  // Faults without the lock that found a table or a frame our own before it was sealed.
  rcu::synchronize();
  snapshot->census = m.table->census();
  const auto old = m.table->renew_root(m.config.end, batch);
  if (!old) {
    layer.reset();  // nobody stands on it: the seals are undone
    m.thaw_locked();
    return fail(old.error());
  }
  batch.commit();
  snapshot->layer = std::move(layer);
  snapshot->root = *old;
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
