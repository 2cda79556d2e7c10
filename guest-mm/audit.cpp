// Audit: regions, page table, frames and tables are recounted and compared with the books.
#include <unordered_set>

#include "guest-mm/address_space_impl.hpp"

namespace ramet::mm {

std::string AddressSpace::audit() const {
  const Impl& m = *impl_;
  SpaceGuard guard(m.core.lock);
  Gva before = 0;
  std::size_t regions = 0;
  for (const Region* r = m.core.regions.at_or_after(0); r; r = m.core.regions.next(*r)) {
    if (r->start >= r->end || r->start < before || r->end > m.core.config.end ||
        !is_aligned(r->start | r->end | r->offset, kPageSize)) {
      return "a region overlaps another, is empty, misplaced or misaligned";
    }
    if (SequenceCount::changing(r->sequence.read())) return "a region stayed marked as changing";
    before = r->end;
    ++regions;
  }
  if (regions != m.core.regions.size()) return "the count of regions differs from the map";
  if (m.core.in_flight.count() != 0) return "frames are in flight and no fault is under way";
  if (auto wrong = m.core.table->audit(); !wrong.empty()) return wrong;
  if (!m.core.frames->consistent()) return "the frame pool's lists differ from its count";

  std::string wrong;
  std::uint64_t private_pages = 0;
  std::unordered_set<Gpa> seen;
  m.core.table->visit(0, m.core.config.end, [&](const PageTable::Leaf& leaf) {
    const Region* region = m.core.regions.find(leaf.start);
    if (!region || leaf.end() > region->end) {
      wrong = "an entry lies outside every region, or reaches across two";
      return;
    }
    const bool kept = leaf.state == PageTable::State::Kept;
    if (kept != (region->prot == Prot::None)) wrong = "an entry is present in a PROT_NONE region, or kept in another";
    if (!kept && leaf.attributes.write && !has(region->prot, Prot::Write))
      wrong = "an entry is writable, its region is not";
    if (!kept && leaf.attributes.execute && !has(region->prot, Prot::Exec)) {
      wrong = "an entry is executable, its region is not";
    }
    if (!kept && leaf.attributes.deferred_exec && (leaf.attributes.execute || !has(region->prot, Prot::Exec))) {
      wrong = "an entry withholds execution, which it has or its region has not";
    }
    if (m.core.memory.data().contains(leaf.address)) {
      if (region->shows_object()) wrong = "a shared region maps private frames";
      for (std::uint64_t at = 0; at < leaf.span(); at += kPageSize) {
        if (!seen.insert(leaf.address + at).second) wrong = "a frame is mapped twice";
        if (m.core.frames->is_free(leaf.address + at)) wrong = "a mapped frame is free";
        ++private_pages;
      }
    } else if (m.core.memory.inherited(leaf.address)) {
      if (region->shows_object()) wrong = "a shared region maps frames of a layer";
    } else if (!region->shows_object()) {
      wrong = "a private region maps frames that are neither the VM's own nor a layer's";
    }
    const bool writable = !kept && m.core.table->find(leaf.start).attributes.write;
    for (Gpa frame = leaf.address; writable && frame < leaf.address + leaf.span(); frame += kPageSize) {
      if (!m.rules.may_write(*region, frame) && !m.core.pins->ever(frame))
        wrong = "a frame that others see is writable";
    }
  });
  if (!wrong.empty()) return wrong;
  if (private_pages + m.core.pins->orphans() != m.core.frames->used()) return "frames in use that no entry maps";
  return {};
}

}  // namespace ramet::mm
