// Counts the bytes of shared banks that regions show.
#include "guest-mm/shared_banks.hpp"

namespace ramet::mm {

Result<> SharedBanks::attach_locked(const Region& region) {
  if (!region.shows_object()) return {};
  const auto bank = region.backing->shared().bank;
  const auto [at, first] = shown_.try_emplace(bank.get(), Shown{bank, 0});
  if (first) {
    if (auto known = core_.memory.attach(bank); !known) {
      shown_.erase(at);
      return known;
    }
  }
  at->second.bytes += region.length();
  return {};
}

Result<> SharedBanks::attach_all_locked(const std::vector<const Region*>& all, FlushBatch& batch) {
  for (auto r = all.begin(); r != all.end(); ++r) {
    const auto known = attach_locked(**r);
    if (known) continue;
    for (auto had = all.begin(); had != r; ++had) detach_locked(**had, batch);
    return known;
  }
  return {};
}

void SharedBanks::grown_locked(const Region& region, std::uint64_t bytes) {
  if (region.shows_object()) shown_[region.backing->shared().bank.get()].bytes += bytes;
}

void SharedBanks::detach_locked(const Region& region, FlushBatch& batch) {
  if (!region.shows_object()) return;
  const auto at = shown_.find(region.backing->shared().bank.get());
  if (at == shown_.end() || (at->second.bytes -= region.length()) > 0) return;
  batch.detach(core_.memory, std::move(at->second.bank));
  shown_.erase(at);
}

}  // namespace ramet::mm
