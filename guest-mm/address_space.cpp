// Address space: creation, map and unmap, frames for ring 0, and queries.
#include "guest-mm/address_space.hpp"

#include <algorithm>
#include <bit>
#include <chrono>
#include <thread>
#include <utility>

#include "guest-mm/address_space_impl.hpp"
#include "guest-mm/rcu.hpp"

namespace ramet::mm {

AddressSpace::AddressSpace(const Config& config, Memory& memory, Tlb& tlb)
    : memory_(memory), impl_(std::make_unique<Impl>(config, memory, tlb, counters_)) {}

AddressSpace::~AddressSpace() = default;

Result<std::unique_ptr<AddressSpace>> AddressSpace::create(const Config& config, Memory& memory, Tlb& tlb) {
  const bool window_ok = config.around_pages != 0 && config.around_pages <= kPagesPerBlock &&
                         is_aligned(config.around_pages, std::bit_floor(config.around_pages));
  if (!window_ok || config.start == 0 || config.start >= config.mmap_top || config.mmap_top > config.end ||
      config.end > 1ull << 47 || !is_aligned(config.start | config.mmap_top | config.end, kPageSize)) {
    return fail(Error::Invalid);
  }
  arch::install_guard();
  std::unique_ptr<AddressSpace> space(new AddressSpace(config, memory, tlb));
  Impl& impl = *space->impl_;
  impl.core.merger = &impl.merges;
  if (auto begun = impl.core.begin(); !begun) return fail(begun.error());
  return space;
}

Result<Gva> AddressSpace::map(const MapRequest& request) {
  Impl& m = *impl_;
  if (request.length == 0) return fail(Error::Invalid);
  if (request.length > m.core.config.end) return fail(Error::NoMemory);
  const std::uint64_t length = align_up(request.length, kPageSize);
  if (!is_aligned(request.offset, kPageSize) || request.offset + length < request.offset) return fail(Error::Invalid);
  if (!has(request.max_prot, request.prot)) return fail(Error::NotPermitted);
  if (request.shared && request.backing && !request.backing->shared().bank) return fail(Error::Invalid);

  Gva address = 0;
  {
    FlushBatch batch = m.core.locked();
    const auto placed = m.mappings.place_locked(request, length);
    if (!placed) return placed;
    address = *placed;
    if (!m.core.regions.has_room(address, address + length, 1)) return fail(Error::NoMemory);
    if (request.fixed && !m.core.regions.free(address, address + length)) {
      auto gone = m.mappings.unmap_locked(address, address + length, batch);
      batch.commit();
      if (!gone) return fail(gone.error());
    }
    Region region;
    region.start = address;
    region.end = address + length;
    region.prot = request.prot;
    region.max_prot = request.max_prot;
    region.shared = request.shared;
    region.grows_down = request.grows_down;
    region.locked = request.locked;
    region.backing = request.backing;
    region.offset = request.backing ? request.offset : 0;
    region.name = request.name;
    if (auto known = m.banks.attach_locked(region); !known) return fail(known.error());
    m.core.regions.insert(std::move(region));
  }
  if (request.populate && request.prot != Prot::None) {
    // As mmap(2) has it: what cannot be mapped now is mapped when touched, or fails then.
    (void)m.faults.populate(address, address + length, has(request.prot, Prot::Write) ? Access::Write : Access::Read);
  }
  return address;
}

Result<> AddressSpace::unmap(Gva address, std::uint64_t length) {
  Impl& m = *impl_;
  if (!m.core.user_range(address, length)) return fail(Error::Invalid);
  FlushBatch batch = m.core.locked();
  auto done = m.mappings.unmap_locked(address, address + length, batch);
  batch.commit();
  return done;
}

void AddressSpace::truncated(const Backing& backing, std::uint64_t size) {
  Impl& m = *impl_;
  FlushBatch batch = m.core.locked();
  const std::uint64_t kept = size > ~kPageSize ? size : align_up(size, kPageSize);
  std::vector<const Region*> changed;
  for (const Region* r = m.core.regions.at_or_after(0); r; r = m.core.regions.next(*r)) {
    if (r->backing.get() != &backing || r->offset_of(r->end) <= kept) continue;
    const Gva from = kept <= r->offset ? r->start : r->start + (kept - r->offset);
    // If a shared table cannot be copied, the entries stay: a store there finds the host's file gone, SIGBUS as well.
    if (!m.core.table->unshare_ends(from, r->end, batch)) continue;
    r->sequence.begin();  // faults that saw the old size
    m.core.table->unmap(from, r->end, batch);  // file pages are 4 KiB leaves: nothing to split
    changed.push_back(r);
  }
  batch.commit();
  for (const Region* r : changed) r->sequence.end();
}

Result<Gpa> AddressSpace::allocate_kernel_frame() {
  SpaceGuard guard(impl_->core.lock);
  return impl_->core.tables->allocate_kernel();
}

void AddressSpace::flush_deferred() {
  FlushBatch batch = impl_->core.locked();
  batch.take_deferred();
  batch.commit();
}

void AddressSpace::dump(const std::function<void(const Node&)>& see) const {
  rcu::Reader reader;
  impl_->core.table->dump([&](const PageTable::Node& n) {
    // Bit 47 is the sign of an address.
    const Gva start = static_cast<Gva>(static_cast<std::int64_t>(n.leaf.start << 16) >> 16);
    see({.start = start,
         .level = n.leaf.level,
         .address = n.leaf.address,
         .table = n.table,
         .kept = n.leaf.state == PageTable::State::Kept,
         .changing = n.leaf.state == PageTable::State::Changing,
         .entries = n.entries,
         .attributes = n.leaf.attributes});
  });
}

Gpa AddressSpace::root() const { return impl_->core.table->root(); }

void AddressSpace::visit_regions(const std::function<void(const Region&)>& see) const {
  const RegionMap& regions = impl_->core.regions;
  constexpr unsigned kRounds = 100;  // of 100 us
  std::vector<Region> copies;
  for (unsigned round = 0;; ++round) {
    if (impl_->core.lock.try_lock()) {
      const SpaceGuard guard(impl_->core.lock, kAdopt);
      for (const Region* r = regions.at_or_after(0); r; r = regions.next(*r)) see(*r);
      return;
    }
    if (round >= kRounds && regions.copies(copies)) break;
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  for (const Region& r : copies) see(r);
}

std::optional<Region> AddressSpace::find_region(Gva address) const {
  SpaceGuard guard(impl_->core.lock);
  const Region* region = impl_->core.regions.find(address);
  if (!region) return std::nullopt;
  return *region;
}

std::uint64_t AddressSpace::limit_bytes() const { return impl_->core.frames->total() << kPageShift; }
const std::shared_ptr<Account>& AddressSpace::account() const { return impl_->core.frames->account(); }

Usage AddressSpace::usage() const {
  const auto census = impl_->core.table->census();
  return {.data_pages_4k = census.pages,
          .data_blocks_2m = census.blocks + census.giants * arch::kEntriesPerTable,
          .inherited_pages = census.inherited_pages,
          .shared_pages = census.shared_pages,
          .table_pages = impl_->core.tables->used(),
          .table_limit_pages = impl_->core.tables->total(),
          .peak_bytes = impl_->core.frames->peak() << kPageShift,
          .held_bytes = impl_->core.frames->account()->held(),
          .peak_held_bytes = impl_->core.frames->account()->peak_held(),
          .limit_bytes = impl_->core.frames->total() << kPageShift,
          .quarantined_pages = impl_->core.frames->quarantined()};
}

}  // namespace ramet::mm
