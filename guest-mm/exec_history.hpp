// What becomes of pages whose execution is deferred: whether deferring pays, by region and by why entries are new.
// Lazy wins where F < I * (M - N) / N (Marinas, in the discussion of "mm: Introduce lazy exec permission setting on a
// page", 2019), with M pages deferred, N of them executed afterwards, I the cost of a sync and F of an instruction
// fault.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "guest-mm/types.hpp"

namespace ramet::mm {

// Why pages go to other frames (Linux: enum migrate_reason). Mapped: no migration, the entries were mapped anew.
enum class MoveReason : std::uint8_t { Explicit, Compaction, Numa, MemoryFailure, Hotplug, Contiguous, Mapped };
inline constexpr unsigned kMoveReasons = 7;

// Nanoseconds: of a sync of 4 KiB, and of an instruction fault with the way out of the guest and back.
struct ExecCosts {
  double sync = 0, fault = 0;
};

// Counts for the pages or the blocks of one region. Relaxed: updates by several threads may mix or be lost.
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

  // This many entries withhold execution from now on.
  void defer(MoveReason why, std::uint32_t entries);
  // An entry that withheld execution was fetched through.
  void ran();
  // Closes the sample: adds the entries deferred since the last call to the estimated share, and counts anew.
  void conclude(MoveReason why);

  // Which new entries, of `pages_each` pages, are to be deferred. 1: all; 0: none; n: every nth, to learn whether
  // deferring would pay, at a cost that is small beside that of the syncs.
  std::uint32_t every(MoveReason why, const ExecCosts&, std::uint64_t pages_each) const;

 private:
  struct Of {
    std::atomic<std::uint32_t> deferred{0}, ran{0};  // since conclude()
    std::atomic<float> share{-1};  // estimate: the part of deferred entries that ran; negative: none
  };
  std::array<Of, kMoveReasons> of_;
  std::atomic<MoveReason> last_{MoveReason::Mapped};
};

}  // namespace ramet::mm
