// Fault-around policy: how much one fault maps. A pure function, so that tests can drive it.
//
// An exit costs as much as filling a hundred pages, so one fault maps a window around its page; the
// window grows while faults come in sequence, up to several 2 MiB blocks. It shrinks when the VM's memory
// runs low, so that pages mapped ahead never take the last frames from pages that are needed.
#pragma once

#include <cstdint>

#include "guest-mm/types.hpp"

namespace ramet::mm {

// What a region remembers of its last fault.
struct AroundState {
  Gva up = 0, down = 0;       // where a sequential fault would come next: the end and the start of the last window
  unsigned pages = 0;         // size of the last window, 4 KiB pages; 512 and more: blocks
};

struct AroundInput {
  Gva address = 0;                     // page that faulted
  Gva start = 0, end = 0;              // what may be mapped: the region, or what of it the file covers
  bool blocks = false;                 // 2 MiB leaves allowed here
  bool eager_blocks = false;           // MADV_HUGEPAGE: a block wherever one fits
  bool block_absent = false;           // nothing is mapped in the 2 MiB around the address
  bool previous_is_block = false;      // the 2 MiB before it are mapped by a block
  unsigned populated = 0;              // 4 KiB entries in use in the 2 MiB around the address
  unsigned window = 16;                // first window, 4 KiB pages, a power of two
  std::uint64_t free_frames = 0, total_frames = 0;
};

struct AroundPlan {
  // blocks > 0: that many 2 MiB blocks from the aligned address on. If blocks == 0, or not one block can be had: the
  // absent 4 KiB pages of [start, end), which is at most 2 MiB.
  unsigned blocks = 0;
  Gva start = 0, end = 0;
  AroundState next;
};

inline constexpr unsigned kPagesPerBlock = kBlockSize / kPageSize;
inline constexpr unsigned kMaxBlocksPerFault = 32;      // 64 MiB, reached by doubling
inline constexpr unsigned kDenseWindows = 4;  // with so many windows populated in 2 MiB, a fault maps the rest
inline constexpr unsigned kWholeWindows = 2;            // a region of at most this many windows is mapped whole
inline constexpr unsigned kBlockHead = 16;              // a fault in the first 64 KiB of a block takes it whole

AroundPlan plan_around(const AroundInput&, const AroundState&);

}  // namespace ramet::mm
