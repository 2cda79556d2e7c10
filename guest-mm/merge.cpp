// Huge mappings that heal (Lu, "x86/mm/cpa: merge small mappings whenever possible", 2022): a table whose entries are
// one larger leaf in all but name becomes that leaf at once, 2 MiB and then 1 GiB. Walker::count() knows when.
#include <algorithm>

#include "guest-mm/address_space_impl.hpp"

namespace ramet::mm {

using Level = PageTable::Level;

// A pinned page of a sealed block is the VM's own, what lies around it is not; nor are all blocks of a giant sealed at once.
bool AddressSpace::Impl::one_kind(Gpa first, std::uint64_t span) const {
  if (!memory.data().contains(first)) return true;  // a layer's, never written and never pinned
  if (!frames->exclusive(first)) return span == kBlockSize && !pins->any_in_block(first);
  for (Gpa block = first; block - first < span; block += kBlockSize) {
    if (!frames->exclusive(block)) return false;
  }
  return true;
}

// A merge moves no frame, so pinned ones do not hinder it, but for one case: a leaf says one thing of all its frames, so
// those that children see do not merge with those that are the VM's own (one_kind()).
// Rules: a range that is to stay in small pages, and a region that takes no blocks (file pages, pages that flip between
// writable and executable, MADV_NOHUGEPAGE), keep their tables. A region must cover all of the leaf, or the leaf would
// give what lies beside it the same permission. Kept entries (PROT_NONE) are not uniform, so nothing hidden merges.
void AddressSpace::Impl::merge_locked(Gva at, Level level, FlushBatch& batch) {
  if (!config.merge || !table->uniform(at, level)) return;
  const Level larger = Level(unsigned(level) + 1);
  const std::uint64_t span = arch::span_of(larger);
  const Gva start = align_down(at, span);
  if (larger > Level::Pud || (larger == Level::Pud && !config.giants) || !config.blocks) {
    counters.merge_refused_format.add();
    return;
  }
  if (const Region* region = regions.find(start)) {
    if (!takes_blocks(*region)) return counters.merge_refused_keep_4k.add();
    if (region->end - start < span) return counters.merge_refused_region.add();
    const Gpa first = table->find(start).address;
    if (is_aligned(first, span) && !one_kind(first, span)) return counters.merge_refused_shared.add();
  } else if (linear && start - *linear < memory.data().size()) {
    const auto kept = [&](const std::pair<Gva, Gva>& k) { return k.first < start + span && start < k.second; };
    if (std::ranges::any_of(keep_4k, kept)) return counters.merge_refused_keep_4k.add();
  } else {
    return counters.merge_refused_region.add();
  }
  // Blocks lie in one bank each; what a giant is made of may lie in two, and be freed apart.
  if (larger == Level::Pud && memory.host_range(table->find(start).address).size() < span) {
    return counters.merge_refused_alignment.add();
  }
  switch (table->merge(at, level, batch)) {
    case PageTable::Merged::Done: merge_locked(at, larger, batch); break;
    case PageTable::Merged::Misaligned: counters.merge_refused_alignment.add(); break;
    case PageTable::Merged::NotUniform: break;
  }
}

Result<> AddressSpace::split(Gva address, std::uint64_t length, Level smallest) {
  Impl& m = *impl_;
  if (length == 0 || !is_aligned(address | length, kPageSize) || address + length < address || smallest > Level::Pmd) {
    return fail(Error::Invalid);
  }
  FlushBatch batch = m.locked();
  Result<> done;
  for (Gva at = address; at < address + length && done;) {
    done = m.table->split_to(at, smallest, batch);
    const PageTable::Leaf leaf = m.table->find(at);
    at = leaf.level == Level::Pte ? align_down(at, kBlockSize) + kBlockSize : leaf.end();
  }
  batch.commit();
  return done;
}

std::uint64_t AddressSpace::merge(Gva address, std::uint64_t length) {
  Impl& m = *impl_;
  if (length == 0 || address + length < address) return 0;
  FlushBatch batch = m.locked();
  const std::uint64_t before = m.counters.merge_pmd + m.counters.merge_pud;
  for (Gva at = align_down(address, kBlockSize); at < address + length;) {
    m.merge_locked(at, Level::Pte, batch);
    if (m.table->find(at).level == Level::Pmd) m.merge_locked(at, Level::Pmd, batch);
    const PageTable::Leaf leaf = m.table->find(at);
    at = leaf.level == Level::Pte ? at + kBlockSize : leaf.end();
  }
  batch.commit();
  return m.counters.merge_pmd + m.counters.merge_pud - before;
}

}  // namespace ramet::mm
