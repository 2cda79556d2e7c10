// How the VMM waits for a guest thread's next trap. Looking for it all the time is fastest, as long as the traps come
// soon and there is a processor for each side; else it costs processors and delays the other side. Which is the case
// shows from what looking brought lately: the numbers of threads and processors do not tell, as others run on this
// host.
#pragma once

#include <chrono>
#include <cstdint>

#include "vmm/process/context.hpp"

namespace ramet::vmm::process {

class Pace {
 public:
  enum class Wait {
    Look,  // then sleep on a futex
    Sleep,  // on a futex, which wakes each side where a processor is idle
    Listen,  // sleep on the listener, which keeps both sides on one processor
  };
  // How long to look: somewhat more than sleeping and being woken costs.
  static constexpr std::chrono::microseconds kLook{80};
  // In how many rounds the guest's thread looks for what comes next, before it sleeps: some 20 us, where each side
  // seems to have a processor, for calls that take a few of the host's; else as long as short ones take.
  static constexpr std::uint32_t kGuestLooks = 500, kGuestSleeps = 200;

  // For the next trap.
  Wait next();
  // What became of Look.
  void looked(const Context::Looked&);

 private:
  static constexpr unsigned kShortestRest = 8;
  static constexpr std::chrono::nanoseconds kMostGain{1'000'000};  // cap on the credit
  // Looks in a row without an answer, at most kMostMisses. At that number, one trap in kTurns is looked for: by turn_,
  // which is less than kTurns.
  unsigned misses_ = 0, turn_ = 1;
  // Credit: time that looking has saved, less what it cost. Between 0 and kMostGain; a loss beyond it starts a rest.
  std::chrono::nanoseconds gain_ = kMostGain / 2;
  // Traps left without looking, and the length of the next rest: each rest doubles it, kLongestRest looks without a
  // rest halve it. Between kShortestRest and kLongestRest.
  unsigned rest_ = 0, rest_after_ = kShortestRest;
  unsigned paid_ = 0;  // looks since the last rest
};

}  // namespace ramet::vmm::process
