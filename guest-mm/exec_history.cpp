#include "guest-mm/exec_history.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace ramet::mm {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
std::size_t index(MoveReason why) { return static_cast<std::size_t>(why); }

}  // namespace

void ExecHistory::defer(MoveReason why, std::uint32_t entries) {
  // A migration closes the sample when it starts; faults map few entries, so they close it every kMany.
  constexpr std::uint32_t kMany = 64;
  if (why == MoveReason::Mapped && of_[index(why)].deferred.load(kRelaxed) >= kMany) conclude(why);
  last_.store(why, kRelaxed);
  of_[index(why)].deferred.fetch_add(entries, kRelaxed);
}

void ExecHistory::ran() {
  // An entry does not say for which reason it was deferred. It is counted for the last reason while that has entries
  // that have not run, then for the reason that has most of them.
  const auto left = [this](std::size_t why) {
    const std::uint32_t deferred = of_[why].deferred.load(kRelaxed), ran = of_[why].ran.load(kRelaxed);
    return deferred > ran ? deferred - ran : 0;
  };
  std::size_t why = index(last_.load(kRelaxed));
  if (left(why) == 0)
    for (std::size_t other = 0; other < kMoveReasons; ++other)
      if (left(other) > left(why)) why = other;
  of_[why].ran.fetch_add(1, kRelaxed);
}

void ExecHistory::conclude(MoveReason why) {
  Of& of = of_[index(why)];
  const float deferred = static_cast<float>(of.deferred.exchange(0, kRelaxed)),
              ran = static_cast<float>(of.ran.exchange(0, kRelaxed));
  if (deferred == 0) return;
  // Weighted mean: the previous estimate, or 0.5 if there is none, counts as kFew entries.
  constexpr float kFew = 32;
  const float now = std::min(ran / deferred, 1.0f), known = of.share.load(kRelaxed), before = known < 0 ? 0.5f : known;
  of.share.store((before * kFew + now * deferred) / (kFew + deferred), kRelaxed);
}

std::uint32_t ExecHistory::every(MoveReason why, const ExecCosts& costs, std::uint64_t pages_each) const {
  const double share = of_[index(why)].share.load(kRelaxed);
  const double sync = costs.sync * static_cast<double>(pages_each);
  // No estimate: assume 0.5. If deferring all is then the dearer way, every fourth entry is deferred, to learn.
  if (share < 0) return costs.fault <= sync || sync == 0 ? 1 : 4;
  if (costs.fault * share <= sync * (1 - share)) return 1;
  // Sampling faults may cost at most kShare of the sync time.
  constexpr double kShare = 0.03, kLeast = 16;
  const double every = sync > 0 ? std::max(kLeast, std::ceil(costs.fault / (kShare * sync)))
                                : std::numeric_limits<double>::infinity();
  return every < 1 << 20 ? static_cast<std::uint32_t>(every) : 0;
}

}  // namespace ramet::mm
