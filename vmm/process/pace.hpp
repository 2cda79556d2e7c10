// How the VMM waits for a guest thread's next trap. Looking for it all the time is fastest, as long as the traps come soon and
// there is a processor for each side; where it is not, or they do not, it costs processors and delays the other. Which it is
// shows by what looking brought lately: numbers of threads and processors do not tell, as others run on this host.
#pragma once

#include <algorithm>
#include <chrono>

#include "vmm/process/context.hpp"

namespace ramet::vmm::process {

class Pace {
 public:
  enum class Wait {
    Look,    // then sleep on a futex
    Sleep,   // on a futex, which wakes each side where a processor is idle
    Listen,  // sleep on the listener, which keeps both sides on one processor
  };
  // How long to look: somewhat more than sleeping and being woken costs.
  static constexpr std::chrono::microseconds kLook{80};

  // For the next trap.
  Wait next() {
    // Before it looks again each side gets a processor of its own, where one is idle: beside one that only looks, on one
    // processor, no trap would come.
    if (rest_ > 0) return --rest_ == 0 ? Wait::Sleep : Wait::Listen;
    if (misses_ < kMostMisses) return Wait::Look;
    turn_ = (turn_ + 1) % kTurns;
    return turn_ == 0 ? Wait::Sleep : turn_ == 1 ? Wait::Look : Wait::Listen;
  }
  // What became of Look.
  void looked(const Context::Looked& looked) {
    misses_ = looked.answered ? 0 : std::min(misses_ + 1, kMostMisses);
    // An answer that was there at once came while the thread had the processor that both sides share.
    gain_ += !looked.answered ? std::chrono::nanoseconds(0) : looked.at_once ? -kShared : kFound;
    gain_ = std::min(gain_ - looked.displaced, kMostGain);
    if (gain_ < std::chrono::nanoseconds(0)) {
      // The oftener looking does not pay, the longer it rests.
      gain_ = kMostGain / 2;
      rest_ = rest_after_;
      rest_after_ = std::min(2 * rest_after_, kLongestRest);
      paid_ = 0;
    } else if (++paid_ % kLongestRest == 0) {
      rest_after_ = std::max(rest_after_ / 2, kShortestRest);
    }
  }

 private:
  static constexpr unsigned kMostMisses = 8, kTurns = 8, kShortestRest = 8, kLongestRest = 1024;
  // What an answer that was looked for saves, as measured; what one costs that came on the same processor; and for how much
  // of what was saved a processor that was taken away is made up for.
  static constexpr std::chrono::nanoseconds kFound{12'000}, kShared{24'000}, kMostGain{1'000'000};
  unsigned misses_ = 0, turn_ = 1;
  std::chrono::nanoseconds gain_ = kMostGain / 2;   // by looking, lately
  unsigned rest_ = 0, rest_after_ = kShortestRest;  // traps: that it is not looked for, and will not be the next time
  unsigned paid_ = 0;                               // times looked since the last rest
};

}  // namespace ramet::vmm::process
