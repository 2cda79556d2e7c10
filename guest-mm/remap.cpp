// mremap: shrink, grow in place, move. Entries move, the data stays where it is.
#include "guest-mm/address_space_impl.hpp"

namespace ramet::mm {

namespace {

// One mremap, under the lock, in steps. A step returns where the mapping is now; nullopt if it does not apply.
class Remapping {
 public:
  Remapping(SpaceCore& core, SharedBanks& banks, Mappings& mappings, const RemapRequest& request, FlushBatch& batch)
      : core_(core), banks_(banks), mappings_(mappings), request_(request), batch_(batch) {}

  // Precondition: the request has been checked as far as that needs no regions, and lengths are whole pages.
  Result<Gva> run() RAMET_REQUIRES(address_space_lock);

 private:
  Gva old_end() const { return request_.address + request_.old_length; }
  bool moving() const { return request_.fixed || request_.dont_unmap; }
  Result<Gva> shrink() RAMET_REQUIRES(address_space_lock);
  std::optional<Result<Gva>> grow_in_place(const Region&) RAMET_REQUIRES(address_space_lock);
  // Chooses the destination and unmaps what is there. If the new length is shorter, cuts off the end of the old range.
  Result<Gva> make_place() RAMET_REQUIRES(address_space_lock);
  Result<Gva> move_entries(Region, Gva target) RAMET_REQUIRES(address_space_lock);
  // Maps the region at `target` through the larger bank of request_.backing; entries are not moved but faulted in
  // again.
  Result<Gva> map_anew(Region, Gva target) RAMET_REQUIRES(address_space_lock);
  // Inserts the region at [start, end), with the contents that it has from `from` on.
  void insert(Region, Gva from, Gva start, Gva end) RAMET_REQUIRES(address_space_lock);

  SpaceCore& core_;
  SharedBanks& banks_;
  Mappings& mappings_;
  RemapRequest request_;
  FlushBatch& batch_;
};

Result<Gva> Remapping::run() {
  const Gva address = request_.address;
  const Region* found = core_.regions.find(address);
  if (!found) return fail(Error::NotMapped);
  if (!moving() && request_.new_length <= request_.old_length) return shrink();
  if (found->end - address < request_.old_length) return fail(Error::NotMapped);
  if (request_.backing && found->backing != request_.in_place_of) return fail(Error::NotMapped);
  const Region region = *found;  // a copy: the map changes below
  if (region.backing && region.offset_of(address) + request_.new_length < request_.new_length)
    return fail(Error::Invalid);
  if (!moving()) {
    if (auto grown = grow_in_place(region)) return *grown;
  }
  if (!request_.may_move) return fail(Error::NoMemory);
  // Cuts at both ends of the old range, the moved region, and for DONTUNMAP the one that stays.
  if (!core_.regions.has_room(address, old_end(), 2)) return fail(Error::NoMemory);
  const auto target = make_place();
  if (!target) return target;
  return request_.backing ? map_anew(region, *target) : move_entries(region, *target);
}

// An unmap of the end, which may reach over several regions and holes, as on Linux.
Result<Gva> Remapping::shrink() {
  if (request_.new_length == request_.old_length) return request_.address;
  auto cut = mappings_.unmap_locked(request_.address + request_.new_length, old_end(), batch_);
  batch_.commit();
  if (!cut) return fail(cut.error());
  return request_.address;
}

std::optional<Result<Gva>> Remapping::grow_in_place(const Region& region) {
  const Gva address = request_.address, new_end = address + request_.new_length;
  RegionMap& regions = core_.regions;
  if (region.end != old_end() || request_.new_length > core_.config.end - address || !regions.free(old_end(), new_end))
    return std::nullopt;
  if (!regions.has_room(request_.backing ? address : old_end(), new_end, 1)) return fail(Error::NoMemory);
  if (request_.backing) return map_anew(region, address);
  insert(region, old_end(), old_end(), new_end);
  return address;
}

Result<Gva> Remapping::make_place() {
  RegionMap& regions = core_.regions;
  if (!request_.fixed) {
    // The same offset within 2 MiB lets blocks and whole tables move as they are.
    std::optional<Gva> place;
    if (request_.new_length >= kBlockSize) place = regions.find_free(request_.new_length, kBlockSize, request_.address);
    if (!place) place = regions.find_free(request_.new_length, kPageSize);
    return place ? Result<Gva>(*place) : fail(Error::NoMemory);
  }
  const Gva target = request_.new_address;
  if (!regions.free(target, target + request_.new_length)) {
    if (auto gone = mappings_.unmap_locked(target, target + request_.new_length, batch_); !gone)
      return fail(gone.error());
  }
  if (request_.new_length < request_.old_length) {
    if (auto cut = mappings_.unmap_locked(request_.address + request_.new_length, old_end(), batch_); !cut)
      return fail(cut.error());
    request_.old_length = request_.new_length;
  }
  return target;
}

void Remapping::insert(Region region, Gva from, Gva start, Gva end) {
  if (region.backing) region.offset = region.offset_of(from);
  region.start = start;
  region.end = end;
  region.around.store({});
  banks_.grown_locked(region, end - start);
  core_.regions.insert(std::move(region));
}

Result<Gva> Remapping::map_anew(Region region, Gva target) {
  const Gva address = request_.address;
  region.backing = request_.backing;
  region.offset = region.offset_of(address);
  region.start = target, region.end = target + request_.new_length;
  region.around.store({});
  // Attached first, as that can fail, before the old range is unmapped.
  if (auto known = banks_.attach_locked(region); !known) return fail(known.error());
  if (auto gone = mappings_.unmap_locked(address, old_end(), batch_); !gone) {
    banks_.detach_locked(region, batch_);
    return fail(gone.error());
  }
  core_.regions.insert(std::move(region));
  batch_.commit();
  return target;
}

Result<Gva> Remapping::move_entries(Region region, Gva target) {
  const Gva address = request_.address, end = old_end();
  core_.regions.seize(address, end);
  // Old entries at the target are dropped before new ones are made (break-before-make).
  if (batch_.pending()) batch_.flush();
  auto done = core_.split_ends_locked(address, end, batch_);
  if (done) done = core_.table->move(address, target, request_.old_length, batch_);
  if (!done) {
    batch_.commit();
    core_.regions.release(address, end);
    return fail(done.error());
  }
  insert(std::move(region), address, target, target + request_.new_length);
  if (!request_.dont_unmap) mappings_.remove_regions_locked(address, end, batch_);
  batch_.commit();
  if (request_.dont_unmap) core_.regions.release(address, end);  // after the flush: no processor holds the old entries
  return target;
}

}  // namespace

Result<Gva> AddressSpace::remap(const RemapRequest& asked) {
  Impl& m = *impl_;
  RemapRequest request = asked;
  const Gva end = m.core.config.end;
  const bool moving = request.fixed || request.dont_unmap;
  if (!m.core.user_range(request.address, request.old_length) || request.new_length == 0) return fail(Error::Invalid);
  if (request.new_length > end) return fail(Error::NoMemory);
  request.new_length = align_up(request.new_length, kPageSize);
  if (moving && !request.may_move) return fail(Error::Invalid);
  if (request.dont_unmap && request.old_length != request.new_length) return fail(Error::Invalid);
  if (request.fixed) {
    std::uint64_t length = request.new_length;
    if (!m.core.user_range(request.new_address, length) || request.new_address < m.core.config.start)
      return fail(Error::Invalid);
    const bool apart = request.new_address + length <= request.address ||
                       request.address + request.old_length <= request.new_address;
    if (!apart) return fail(Error::Invalid);
  }
  FlushBatch batch = m.core.locked();
  const auto where = Remapping(m.core, m.banks, m.mappings, request, batch).run();
  if (batch.pending()) batch.commit();
  return where;
}

}  // namespace ramet::mm
