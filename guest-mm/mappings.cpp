// Regions, entries and what they hold come and go together.
#include "guest-mm/mappings.hpp"

#include <algorithm>
#include <optional>

namespace ramet::mm {

Result<Gva> Mappings::place_locked(const MapRequest& request, std::uint64_t length) {
  const auto usable = [&](Gva at) {
    return at >= core_.config.start && at <= core_.config.end && length <= core_.config.end - at;
  };
  if (request.fixed) {
    if (!is_aligned(request.address, kPageSize)) return fail(Error::Invalid);
    if (request.address < core_.config.start) return fail(Error::NotPermitted);
    if (!usable(request.address)) return fail(Error::NoMemory);
    if (request.no_replace && !core_.regions.free(request.address, request.address + length))
      return fail(Error::Exists);
    return request.address;
  }
  const Gva hint = align_down(request.address, kPageSize);
  if (hint != 0 && usable(hint) && core_.regions.free(hint, hint + length)) return hint;
  std::optional<Gva> found;
  if (length >= kBlockSize) found = core_.regions.find_free(length, kBlockSize);
  if (!found) found = core_.regions.find_free(length, kPageSize);
  if (!found) return fail(Error::NoMemory);
  return *found;
}

Result<> Mappings::unmap_locked(Gva start, Gva end, FlushBatch& batch) {
  if (!core_.regions.has_room_to_remove(start, end)) return fail(Error::NoMemory);
  core_.regions.seize(start, end);
  if (auto done = core_.split_ends_locked(start, end, batch); !done) {
    core_.regions.release(start, end);
    return done;
  }
  core_.table->unmap(start, end, batch);
  remove_regions_locked(start, end, batch);
  return {};
}

// The range is seized before leaves are cut at its ends, here and in drop_locked(): otherwise a fault without the lock
// could map a block across an end again.
Result<> Mappings::edit_locked(Gva start, Gva end, const std::function<void(Region&)>& edit, FlushBatch& batch) {
  if (!core_.regions.has_room(start, end, 0)) return fail(Error::NoMemory);
  core_.regions.seize(start, end);
  auto cut = core_.split_ends_locked(start, end, batch);
  if (cut) core_.regions.change(start, end, edit);
  else core_.regions.release(start, end);
  batch.commit();
  return cut;
}

Result<> Mappings::drop_locked(Gva start, Gva end, FlushBatch& batch) {
  if (!core_.regions.has_room(start, end, 0)) return fail(Error::NoMemory);
  core_.regions.seize(start, end);
  auto done = core_.split_ends_locked(start, end, batch);
  if (done) core_.table->unmap(start, end, batch);
  batch.commit();
  core_.regions.release(start, end);  // after the flush: new entries come only where no processor holds the old ones
  return done;
}

void Mappings::remove_regions_locked(Gva start, Gva end, FlushBatch& batch) {
  bool backed = false;
  core_.regions.remove(start, end, [&](const Region& gone) RAMET_REQUIRES(address_space_lock) {
    if (!gone.backing) return;
    batch.keep(gone.backing);
    backed = true;
    banks_.detach_locked(gone, batch);
  });
  // Files are released with this batch, not when the map frees its retired regions some time later.
  if (backed) batch.release_regions(core_.regions.take_retired());
}

}  // namespace ramet::mm
