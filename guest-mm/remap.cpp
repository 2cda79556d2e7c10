// mremap: shrink, grow in place, move. Entries move, the data stays where it is.
#include "guest-mm/address_space_impl.hpp"

namespace ramet::mm {

Result<Gva> AddressSpace::remap(const RemapRequest& request) {
  Impl& m = *impl_;
  std::uint64_t old_length = request.old_length, new_length = request.new_length;
  Gva address = request.address, new_address = request.new_address;
  const bool moving = request.fixed || request.dont_unmap;
  if (!m.user_range(address, old_length) || new_length == 0) return fail(Error::Invalid);
  if (new_length > m.config.end) return fail(Error::NoMemory);
  new_length = align_up(new_length, kPageSize);
  if (moving && !request.may_move) return fail(Error::Invalid);
  if (request.dont_unmap && old_length != new_length) return fail(Error::Invalid);
  if (request.fixed) {
    std::uint64_t length = new_length;
    if (!m.user_range(new_address, length) || new_address < m.config.start) return fail(Error::Invalid);
    const bool apart = new_address + new_length <= address || address + old_length <= new_address;
    if (!apart) return fail(Error::Invalid);
  }

  FlushBatch batch = m.locked();
  const auto finish = [&](Result<Gva> result) RAMET_REQUIRES(address_space_lock) {
    batch.commit();
    return result;
  };
  const Region* found = m.regions.find(address);
  if (!found) return fail(Error::NotMapped);

  if (!moving && new_length <= old_length) {  // no more than an unmap: it may reach over regions and holes, as on Linux
    if (new_length == old_length) return address;
    auto cut = m.unmap_locked(address + new_length, address + old_length, batch);
    if (!cut) return finish(fail(cut.error()));
    return finish(address);
  }
  if (found->end - address < old_length) return fail(Error::NotMapped);
  if (request.backing && found->backing != request.in_place_of) return fail(Error::NotMapped);
  Region region = *found;  // a copy: the map changes below
  if (region.backing && region.offset_of(address) + new_length < new_length) return fail(Error::Invalid);
  const Gva old_end = address + old_length;
  // The region at [start, end), with what it has from `from` on.
  const auto insert = [&](Gva from, Gva start, Gva end) RAMET_REQUIRES(address_space_lock) {
    if (region.backing) region.offset = region.offset_of(from);
    region.start = start;
    region.end = end;
    region.around.store({});
    m.regions.insert(std::move(region));
  };
  // At `target` through the larger bank: pages are not moved but found again.
  const auto map_anew = [&](Gva target) RAMET_REQUIRES(address_space_lock) {
    region.backing = request.backing;
    auto done = m.attach_locked(region);
    if (done) done = m.unmap_locked(address, old_end, batch);
    if (!done) {
      m.detach_locked(*request.backing, batch);
      return finish(fail(done.error()));
    }
    insert(address, target, target + new_length);
    return finish(target);
  };
  if (!moving && region.end == old_end && new_length <= m.config.end - address &&
      m.regions.free(old_end, address + new_length)) {
    if (!m.regions.room(request.backing ? address : old_end, address + new_length, 1)) return fail(Error::NoMemory);
    if (request.backing) return map_anew(address);
    insert(old_end, old_end, address + new_length);
    return address;
  }
  if (!request.may_move) return fail(Error::NoMemory);

  // Cuts at both ends of the old range, the moved region, and for DONTUNMAP the one that stays.
  if (!m.regions.room(address, old_end, 2)) return fail(Error::NoMemory);
  Gva target = new_address;
  if (request.fixed) {
    if (!m.regions.free(target, target + new_length)) {
      if (auto gone = m.unmap_locked(target, target + new_length, batch); !gone) return finish(fail(gone.error()));
    }
    if (new_length < old_length) {
      if (auto cut = m.unmap_locked(address + new_length, old_end, batch); !cut) return finish(fail(cut.error()));
      old_length = new_length;
    }
  } else {
    // The same offset within 2 MiB lets blocks and whole tables move as they are.
    std::optional<Gva> place;
    if (new_length >= kBlockSize) place = m.regions.find_free(new_length, kBlockSize, address);
    if (!place) place = m.regions.find_free(new_length, kPageSize);
    if (!place) return finish(fail(Error::NoMemory));
    target = *place;
  }
  const Gva from_end = address + old_length;
  if (request.backing) return map_anew(target);
  m.regions.seize(address, from_end);
  const auto give_up = [&](Error error) RAMET_REQUIRES(address_space_lock) {
    batch.commit();
    m.regions.release(address, from_end);
    return Result<Gva>(fail(error));
  };
  // Old entries at the target are dropped before new ones are made (break-before-make).
  if (batch.pending()) batch.flush();
  if (auto split = m.split_ends_locked(address, from_end, batch); !split) return give_up(split.error());
  if (auto moved = m.table->move(address, target, old_length, batch); !moved) return give_up(moved.error());

  insert(address, target, target + new_length);
  if (!request.dont_unmap) m.remove_regions_locked(address, from_end, batch);
  batch.commit();
  if (request.dont_unmap) m.regions.release(address, from_end);  // nobody holds the old entries any more
  return target;
}

}  // namespace ramet::mm
