// Huge mappings heal (Lu, "x86/mm/cpa: merge small mappings whenever possible", 2022): a uniform table becomes one
// larger leaf at once, 2 MiB and then 1 GiB. Walker::count() tells when a table is uniform.
#include <algorithm>

#include "guest-mm/address_space_impl.hpp"

namespace ramet::mm {

using Level = PageTable::Level;

// In a sealed block, a pinned page is still exclusive and the pages around it are not. The blocks of a giant may be
// sealed at different times.
bool Merges::one_kind(Gpa first, std::uint64_t span) const {
  if (!core_.memory.data().contains(first)) return true;  // a layer's, never written and never pinned
  if (!core_.frames->exclusive(first)) return span == kBlockSize && !core_.pins->any_in_block(first);
  for (Gpa block = first; block - first < span; block += kBlockSize) {
    if (!core_.frames->exclusive(block)) return false;
  }
  return true;
}

// A merge moves no frame, so pins do not hinder it, with one exception: a leaf has one permission for all its frames,
// so frames that children can map do not merge with exclusive ones (one_kind()). Rules: a range that is to
// stay in small pages, and a region that takes no blocks (file pages, pages that flip between writable and executable,
// MADV_NOHUGEPAGE), keep their tables. A region must cover all of the leaf, or the leaf would give the addresses beside
// the region the same permission. A table with kept entries (PROT_NONE) is not uniform.
void Merges::merge_locked(Gva at, Level level, FlushBatch& batch) {
  Counters& counters = core_.counters;
  PageTable& table = *core_.table;
  if (!core_.config.merge || !table.uniform(at, level)) return;
  const Level larger = Level(unsigned(level) + 1);
  const std::uint64_t span = arch::span_of(larger);
  const Gva start = align_down(at, span);
  if (larger > Level::Pud || (larger == Level::Pud && !core_.config.giants) || !core_.config.blocks) {
    counters.merge_refused_format.add();
    return;
  }
  const Gpa first = table.find(start).address;
  if (const Region* region = core_.regions.find(start)) {
    if (!rules_.takes_blocks(*region)) return counters.merge_refused_keep_4k.add();
    if (region->end - start < span) return counters.merge_refused_region.add();
    if (is_aligned(first, span) && !one_kind(first, span)) return counters.merge_refused_shared.add();
  } else if (kernel_.in_linear_locked(start)) {
    if (kernel_.stays_small_locked(start, start + span)) return counters.merge_refused_keep_4k.add();
  } else {
    return counters.merge_refused_region.add();
  }
  // A block lies in one bank; the blocks of a giant may lie in two, and be freed separately.
  if (larger == Level::Pud && core_.memory.host_range(first).size() < span)
    return counters.merge_refused_alignment.add();
  switch (table.merge(at, level, batch)) {
    case PageTable::Merged::Done: merge_locked(at, larger, batch); break;
    case PageTable::Merged::Misaligned: counters.merge_refused_alignment.add(); break;
    case PageTable::Merged::NotUniform: break;
  }
}

Result<> AddressSpace::split(Gva address, std::uint64_t length, Level smallest) {
  SpaceCore& core = impl_->core;
  if (length == 0 || !is_aligned(address | length, kPageSize) || address + length < address || smallest > Level::Pmd) {
    return fail(Error::Invalid);
  }
  FlushBatch batch = core.locked();
  Result<> done;
  for (Gva at = address; at < address + length && done;) {
    done = core.table->split_to(at, smallest, batch);
    const PageTable::Leaf leaf = core.table->find(at);
    at = leaf.level == Level::Pte ? align_down(at, kBlockSize) + kBlockSize : leaf.end();
  }
  batch.commit();
  return done;
}

std::uint64_t AddressSpace::merge(Gva address, std::uint64_t length) {
  SpaceCore& core = impl_->core;
  Merges& merges = impl_->merges;
  if (length == 0 || address + length < address) return 0;
  FlushBatch batch = core.locked();
  const std::uint64_t before = counters_.merge_pmd + counters_.merge_pud;
  for (Gva at = align_down(address, kBlockSize); at < address + length;) {
    merges.merge_locked(at, Level::Pte, batch);
    if (core.table->find(at).level == Level::Pmd) merges.merge_locked(at, Level::Pmd, batch);
    const PageTable::Leaf leaf = core.table->find(at);
    at = leaf.level == Level::Pte ? at + kBlockSize : leaf.end();
  }
  batch.commit();
  return counters_.merge_pmd + counters_.merge_pud - before;
}

}  // namespace ramet::mm
