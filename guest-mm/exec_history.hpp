// What becomes of pages whose execution is deferred: whether it pays, by region and by why they were given new entries.
// Lazy wins where F < I * (M - N) / N (Marinas, in the discussion of "mm: Introduce lazy exec permission setting on a
// page", 2019), with M pages deferred, N of them executed afterwards, I the cost of a sync and F of an instruction
// fault.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "guest-mm/types.hpp"

namespace ramet::mm {

// Why pages go to other frames (Linux: enum migrate_reason); Mapped: they do not, their entries are new.
enum class MoveReason : std::uint8_t { Explicit, Compaction, Numa, MemoryFailure, Hotplug, Contiguous, Mapped };
inline constexpr unsigned kMoveReasons = 7;

// Nanoseconds: of a sync of 4 KiB, and of an instruction fault with the way out of the guest and back.
struct ExecCosts {
  double sync = 0, fault = 0;
};

// Hints of one region, of pages or of blocks; its threads may mix them. Relaxed: nothing is wrong if one is lost.
class ExecHistory {
 public:
  ExecHistory() = default;
  ExecHistory(const ExecHistory& o) { *this = o; }
  ExecHistory& operator=(const ExecHistory& o) {
    for (unsigned i = 0; i < kMoveReasons; ++i) {
      of_[i].deferred.store(o.of_[i].deferred.load(std::memory_order_relaxed), std::memory_order_relaxed);
      of_[i].ran.store(o.of_[i].ran.load(std::memory_order_relaxed), std::memory_order_relaxed);
      of_[i].share.store(o.of_[i].share.load(std::memory_order_relaxed), std::memory_order_relaxed);
    }
    last_.store(o.last_.load(std::memory_order_relaxed), std::memory_order_relaxed);
    return *this;
  }

  // Entries that withhold execution now, and one of those that were withheld last was fetched from.
  void defer(MoveReason why, std::uint32_t entries);
  void ran();
  // What has become of those deferred so far counts from now on; more of them will follow.
  void conclude(MoveReason why);

  // Of entries that lead to so many pages each. 1: all that are given new entries are to be deferred; n: every nth, to
  // see whether that would have been better, at a cost that is small beside the syncs'; 0: none.
  std::uint32_t every(MoveReason why, const ExecCosts&, std::uint64_t pages_each) const;

 private:
  struct Of {
    std::atomic<std::uint32_t> deferred{0}, ran{0};  // since conclude()
    std::atomic<float> share{-1};  // that ran, of those before; negative: nobody knows
  };
  std::array<Of, kMoveReasons> of_;
  std::atomic<MoveReason> last_{MoveReason::Mapped};
};

}  // namespace ramet::mm
