// Address space: creation, map and unmap, the VMM's own mappings, and what people ask about it.
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
  auto frames = FramePool::create(memory.data(), [&memory](Gpa from, Gpa to) { return memory.announce(memory.data(), from, to); },
                                  config.limit_bytes >> kPageShift);
  if (!frames) return fail(frames.error());
  impl.frames = std::move(*frames);
  auto pins = PinBook::create(memory.data());
  if (!pins) return fail(pins.error());
  impl.pins = std::move(*pins);
  impl.pins->freed = [&impl](Gpa first, std::uint64_t pages) { impl.frames->free(first, pages); };
  auto tables = TablePool::create(memory);
  if (!tables) return fail(tables.error());
  impl.tables = std::move(*tables);
  auto table = PageTable::create(config.format, memory, *impl.tables, *impl.frames, tlb, space->counters_);
  if (!table) return fail(table.error());
  impl.table = std::move(*table);
  return space;
}

bool AddressSpace::Impl::user_range(Gva& address, std::uint64_t& length) const {
  address = untagged(address);
  if (!is_aligned(address, kPageSize) || length == 0 || length > config.end || address > config.end) return false;
  length = align_up(length, kPageSize);
  return length <= config.end - address;
}

Result<Gva> AddressSpace::Impl::place_locked(const MapRequest& request, std::uint64_t length) {
  const auto usable = [&](Gva at) {
    return at >= config.start && at <= config.end && length <= config.end - at;
  };
  if (request.fixed) {
    if (!is_aligned(request.address, kPageSize)) return fail(Error::Invalid);
    if (request.address < config.start) return fail(Error::NotPermitted);
    if (!usable(request.address)) return fail(Error::NoMemory);
    if (request.no_replace && !regions.free(request.address, request.address + length)) return fail(Error::Exists);
    return request.address;
  }
  const Gva hint = align_down(request.address, kPageSize);
  if (hint != 0 && usable(hint) && regions.free(hint, hint + length)) return hint;
  std::optional<Gva> found;
  if (length >= kBlockSize) found = regions.find_free(length, kBlockSize);
  if (!found) found = regions.find_free(length, kPageSize);
  if (!found) return fail(Error::NoMemory);
  return *found;
}

Result<Gva> AddressSpace::map(const MapRequest& request) {
  Impl& m = *impl_;
  if (request.length == 0) return fail(Error::Invalid);
  if (request.length > m.config.end) return fail(Error::NoMemory);
  const std::uint64_t length = align_up(request.length, kPageSize);
  if (!is_aligned(request.offset, kPageSize) || request.offset + length < request.offset) return fail(Error::Invalid);
  if (!has(request.max_prot, request.prot)) return fail(Error::NotPermitted);
  if (request.shared && request.backing && !request.backing->shared().bank) return fail(Error::Invalid);

  Gva address = 0;
  {
    FlushBatch batch = m.locked();
    const auto placed = m.place_locked(request, length);
    if (!placed) return placed;
    address = *placed;
    if (!m.regions.room(address, address + length, 1)) return fail(Error::NoMemory);
    if (request.fixed && !m.regions.free(address, address + length)) {
      auto gone = m.unmap_locked(address, address + length, batch);
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
    if (auto known = m.attach_locked(region); !known) return fail(known.error());
    m.regions.insert(std::move(region));
  }
  if (request.populate && request.prot != Prot::None) {
    // As mmap(2) has it: what cannot be mapped now is mapped when touched, or fails then.
    (void)m.populate(address, address + length, has(request.prot, Prot::Write) ? Access::Write : Access::Read, false);
  }
  return address;
}

Result<> AddressSpace::Impl::split_ends_locked(Gva start, Gva end, FlushBatch& batch) {
  if (auto done = table->own_ends(start, end, batch); !done) return done;
  if (auto done = table->split(start, batch); !done) return done;
  return table->split(end, batch);
}

Result<> AddressSpace::Impl::unmap_locked(Gva start, Gva end, FlushBatch& batch) {
  if (!regions.room_to_remove(start, end)) return fail(Error::NoMemory);
  regions.seize(start, end);
  if (auto done = split_ends_locked(start, end, batch); !done) {
    regions.release(start, end);
    return done;
  }
  table->unmap(start, end, batch);
  remove_regions_locked(start, end, batch);
  return {};
}

void AddressSpace::Impl::remove_regions_locked(Gva start, Gva end, FlushBatch& batch) {
  bool backed = false;
  std::vector<std::shared_ptr<Backing>> unshared;
  regions.remove(start, end, [&](const Region& gone) {
    if (!gone.backing) return;
    batch.keep(gone.backing);
    backed = true;
    if (gone.shared) unshared.push_back(gone.backing);
  });
  for (const auto& backing : unshared) detach_locked(*backing, batch);
  // Files are let go at once, not when some later change has the map free what it took out.
  if (backed) regions.reclaim();
}

Result<> AddressSpace::Impl::attach_locked(const Region& region) {
  if (!region.shared || !region.backing) return {};
  const auto bank = region.backing->shared().bank;
  if (std::ranges::find(attached, bank) != attached.end()) return {};
  if (auto known = memory.attach(bank); !known) return known;
  attached.push_back(bank);
  return {};
}

Result<> AddressSpace::Impl::attach_all_locked(const std::vector<const Region*>& all, FlushBatch& batch) {
  for (auto r = all.begin(); r != all.end(); ++r) {
    const auto known = attach_locked(**r);
    if (known) continue;
    for (auto had = all.begin(); had != r; ++had)
      if ((*had)->shared && (*had)->backing) detach_locked(*(*had)->backing, batch);
    return known;
  }
  return {};
}

void AddressSpace::Impl::detach_locked(const Backing& backing, FlushBatch& batch) {
  const auto bank = backing.shared().bank;
  for (const Region* r = regions.at_or_after(0); r; r = regions.next(*r)) {
    if (r->shared && r->backing && r->backing->shared().bank == bank) return;
  }
  if (std::erase(attached, bank) > 0) batch.detach(memory, bank);
}

Result<> AddressSpace::unmap(Gva address, std::uint64_t length) {
  Impl& m = *impl_;
  if (!m.user_range(address, length)) return fail(Error::Invalid);
  FlushBatch batch = m.locked();
  auto done = m.unmap_locked(address, address + length, batch);
  batch.commit();
  return done;
}

void AddressSpace::truncated(const Backing& backing, std::uint64_t size) {
  Impl& m = *impl_;
  FlushBatch batch = m.locked();
  const std::uint64_t kept = size > ~kPageSize ? size : align_up(size, kPageSize);
  std::vector<const Region*> changed;
  for (const Region* r = m.regions.at_or_after(0); r; r = m.regions.next(*r)) {
    if (r->backing.get() != &backing || r->offset_of(r->end) <= kept) continue;
    const Gva from = kept <= r->offset ? r->start : r->start + (kept - r->offset);
    // Without memory for a table of our own the entries stay: a store there finds the host's file gone, SIGBUS as well.
    if (!m.table->own_ends(from, r->end, batch)) continue;
    r->sequence.begin();  // faults that saw the old size
    m.table->unmap(from, r->end, batch);  // file pages are 4 KiB leaves: nothing to split
    changed.push_back(r);
  }
  batch.commit();
  for (const Region* r : changed) r->sequence.end();
}

Result<Gpa> AddressSpace::allocate_kernel_frame() {
  SpaceGuard guard(impl_->lock);
  return impl_->tables->allocate_kernel();
}

void AddressSpace::settle() {
  FlushBatch batch = impl_->locked();
  batch.settle_deferred();
  batch.commit();
}

void AddressSpace::dump(const std::function<void(const Node&)>& see) const {
  rcu::Reader reader;
  impl_->table->dump([&](const PageTable::Node& n) {
    // Bit 47 is the sign of an address.
    const Gva start = static_cast<Gva>(static_cast<std::int64_t>(n.leaf.start << 16) >> 16);
    see({.start = start, .level = n.leaf.level, .address = n.leaf.address, .table = n.table,
         .kept = n.leaf.state == PageTable::State::Kept, .changing = n.leaf.state == PageTable::State::Changing,
         .entries = n.entries, .attributes = n.leaf.attributes});
  });
}

Gpa AddressSpace::root() const { return impl_->table->root(); }

void AddressSpace::visit_regions(const std::function<void(const Region&)>& see) const {
  const RegionMap& regions = impl_->regions;
  constexpr unsigned kRounds = 100;  // of 100 us
  std::vector<Region> copies;
  for (unsigned round = 0;; ++round) {
    if (impl_->lock.try_lock()) {
      const SpaceGuard guard(impl_->lock, kAdopt);
      for (const Region* r = regions.at_or_after(0); r; r = regions.next(*r)) see(*r);
      return;
    }
    if (round >= kRounds && regions.copies(copies)) break;
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  for (const Region& r : copies) see(r);
}

std::optional<Region> AddressSpace::find_region(Gva address) const {
  SpaceGuard guard(impl_->lock);
  const Region* region = impl_->regions.find(address);
  if (!region) return std::nullopt;
  return *region;
}

std::uint64_t AddressSpace::limit_bytes() const { return impl_->frames->total() << kPageShift; }
const std::shared_ptr<Account>& AddressSpace::account() const { return impl_->frames->account(); }

Usage AddressSpace::usage() const {
  const auto census = impl_->table->census();
  return {.data_pages_4k = census.pages,
          .data_blocks_2m = census.blocks + census.giants * arch::kEntriesPerTable,
          .inherited_pages = census.inherited_pages,
          .shared_pages = census.shared_pages,
          .table_pages = impl_->tables->used(),
          .table_limit_pages = impl_->tables->total(),
          .peak_bytes = impl_->frames->peak() << kPageShift,
          .held_bytes = impl_->frames->account()->held(),
          .peak_held_bytes = impl_->frames->account()->peak_held(),
          .limit_bytes = impl_->frames->total() << kPageShift,
          .quarantined_pages = impl_->frames->quarantined()};
}

}  // namespace ramet::mm
