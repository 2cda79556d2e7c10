#include "vmm/process/pace.hpp"

#include <algorithm>

namespace ramet::vmm::process {
namespace {

constexpr unsigned kMostMisses = 8, kTurns = 8, kLongestRest = 1024;
// Measured: what an answer saves that was found by looking, and what one costs that came on the same processor.
constexpr std::chrono::nanoseconds kFound{12'000}, kShared{24'000};

}  // namespace

Pace::Wait Pace::next() {
  // The last wait of a rest is on a futex, whose wake-up spreads both sides over idle processors: if they shared one,
  // looking would keep the guest's thread from its next trap.
  if (rest_ > 0) return --rest_ == 0 ? Wait::Sleep : Wait::Listen;
  if (misses_ < kMostMisses) return Wait::Look;
  turn_ = (turn_ + 1) % kTurns;
  return turn_ == 0 ? Wait::Sleep : turn_ == 1 ? Wait::Look : Wait::Listen;
}

void Pace::looked(const Context::Looked& looked) {
  misses_ = looked.answered ? 0 : std::min(misses_ + 1, kMostMisses);
  // An answer that was there at once came while the thread had the processor that both sides share.
  gain_ += !looked.answered ? std::chrono::nanoseconds(0) : looked.at_once ? -kShared : kFound;
  gain_ = std::min(gain_ - looked.displaced, kMostGain);
  if (gain_ < std::chrono::nanoseconds(0)) {
    // The more often looking does not pay, the longer the rests.
    gain_ = kMostGain / 2;
    rest_ = rest_after_;
    rest_after_ = std::min(2 * rest_after_, kLongestRest);
    paid_ = 0;
  } else if (++paid_ % kLongestRest == 0) {
    rest_after_ = std::max(rest_after_ / 2, kShortestRest);
  }
}

}  // namespace ramet::vmm::process
