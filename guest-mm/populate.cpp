// Mapping a whole range at once: MAP_POPULATE, and madvise's MADV_POPULATE_READ and _WRITE.
#include <algorithm>
#include <array>

#include "guest-mm/address_space_impl.hpp"

namespace ramet::mm {

using State = PageTable::State;

Result<> Faults::populate(Gva start, Gva end, Access access) {
  // The lock is dropped between pieces, so that other threads' faults do not wait for all of it.
  while (start < end) {
    FlushBatch batch = core_.locked();
    const auto next = populate_piece_locked(start, end, access, batch);
    if (!next) return fail(next.error());
    start = *next;
  }
  return {};
}

Result<Gva> Faults::populate_piece_locked(Gva start, Gva end, Access access, FlushBatch& batch) {
  const Region* region = region_for_fault_locked(start);
  if (!region) return fail(Error::NotMapped);
  if (!permits(region->prot, access)) return fail(Error::NotPermitted);
  const PageTable::Leaf leaf = core_.table->find(start);
  if (leaf.state == State::Absent) return populate_absent_locked({*region, start, access, leaf}, end, batch);
  if (leaf.state != State::Present || !EntryRules::allows(leaf, access)) {
    if (auto done = fault_locked(start, access, false, batch); !done) return fail(done.error());
  } else if (leaf.attributes.ahead) {
    if (auto done = core_.table->unshare(leaf.start, leaf.level, batch); !done) return fail(done.error());
    core_.table->update(
        leaf.start, leaf.end(),
        [](const PageTable::Leaf& old) {
          auto asked_for = old.attributes;
          asked_for.ahead = false;
          return PageTable::Change{old.state, asked_for};
        },
        batch);
  }
  return leaf.end();
}

// Maps a block where one fits, else what is absent up to the end of the table.
Result<Gva> Faults::populate_absent_locked(const Found& found, Gva end, FlushBatch& batch) {
  const Gva start = found.address;
  const auto object_end = end_of_object(found.region, start);
  if (!object_end) return fail(object_end.error());
  const Gva limit = std::min(end, *object_end);
  const bool block = rules_.takes_blocks(found.region) && found.leaf.level >= Level::Pmd &&
                     is_aligned(start, kBlockSize) && limit - start >= kBlockSize;
  if (block) {
    if (const auto table = core_.table->prepare(start, Level::Pmd, batch)) {
      const auto done = map_window({found, Level::Pmd, *table, start, start + kBlockSize});
      if (done && done->mapped == 1) return start + kBlockSize;
    }
  }
  const Gva piece = std::min(limit, align_down(start, kBlockSize) + kBlockSize);
  const auto table = core_.table->prepare(start, Level::Pte, batch);
  if (!table && table.error() == Error::Invalid) return start;  // a speculative fault put a block there: look again
  if (!table) return fail(table.error());
  const auto done = map_window({found, Level::Pte, *table, start, piece});
  if (!done) return fail(done.error());
  if (done->uniform) batch.uniform(start, Level::Pte);
  // A window with many gaps takes several calls: the next one begins at the first page that is still absent.
  std::array<Range, 1> missing;
  const bool all = core_.table->absent(*table, Level::Pte, start, piece, missing) == 0;
  return all ? piece : missing[0].start;
}

}  // namespace ramet::mm
