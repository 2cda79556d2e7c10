#include "guest-mm/exec_history.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace ramet::mm {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
std::size_t index(MoveReason why) { return static_cast<std::size_t>(why); }

}  // namespace

std::string_view name_of(MoveReason why) {
  constexpr std::array<std::string_view, kMoveReasons> kNames = {"explicit", "compaction", "numa", "memory-failure", "hotplug", "contiguous", "mapped"};
  return kNames[index(why)];
}

void ExecHistory::defer(MoveReason why, std::uint32_t entries) {
  last_.store(why, kRelaxed);
  auto& deferred = deferred_[index(why)];
  auto& ran = ran_[index(why)];
  if (deferred.load(kRelaxed) > kMany) {
    deferred.store(deferred.load(kRelaxed) / 2, kRelaxed);
    ran.store(ran.load(kRelaxed) / 2, kRelaxed);
  }
  deferred.fetch_add(entries, kRelaxed);
}

void ExecHistory::ran() { ran_[index(last_.load(kRelaxed))].fetch_add(1, kRelaxed); }

std::uint32_t ExecHistory::every(MoveReason why, const ExecCosts& costs, std::uint64_t pages_each) const {
  const double deferred = deferred_[index(why)].load(kRelaxed);
  const double ran = std::min<double>(ran_[index(why)].load(kRelaxed), deferred);
  const double sync = costs.sync * static_cast<double>(pages_each);
  // Nobody knows: every share is as likely, of which half is the mean. A few tell where deferring all is the dearer guess.
  if (deferred == 0) return costs.fault <= sync || sync == 0 ? 1 : 4;
  if (costs.fault * ran <= sync * (deferred - ran)) return 1;
  // One in so many costs this share of the syncs at most.
  constexpr double kShare = 0.03, kLeast = 16;
  const double every = sync > 0 ? std::max(kLeast, std::ceil(costs.fault / (kShare * sync))) : std::numeric_limits<double>::infinity();
  return every < 1 << 20 ? static_cast<std::uint32_t>(every) : 0;
}

}  // namespace ramet::mm
