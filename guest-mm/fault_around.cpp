// The fault-around policy.
#include "guest-mm/fault_around.hpp"

#include <algorithm>

namespace ramet::mm {
namespace {

bool whole_block_in(const AroundInput& in, Gva block) {
  return block >= in.start && in.end >= kBlockSize && block <= in.end - kBlockSize;
}

// How many blocks this fault maps; 0: small pages. Precondition: at least total/8 frames are free.
unsigned blocks_for(const AroundInput& in, const AroundState& before, bool upwards) {
  const Gva block = align_down(in.address, kBlockSize);
  if (!in.blocks || !in.block_absent || !whole_block_in(in, block)) return 0;
  const bool at_head = in.address - block < kBlockHead * kPageSize;
  if (!in.eager_blocks && !at_head && !in.previous_is_block) return 0;
  unsigned wanted = 1;
  if (upwards && before.pages >= kPagesPerBlock) {
    wanted = std::min(2 * (before.pages / kPagesPerBlock), kMaxBlocksPerFault);
  }
  // Blocks ahead of the first leave total/8 frames free.
  const std::uint64_t spare = (in.free_frames - in.total_frames / 8) / kPagesPerBlock;
  wanted = static_cast<unsigned>(std::clamp<std::uint64_t>(wanted, 1, std::max<std::uint64_t>(spare, 1)));
  while (wanted > 1 && !whole_block_in(in, block + (wanted - 1) * kBlockSize)) --wanted;
  return wanted;
}

}  // namespace

AroundPlan plan_around(const AroundInput& in, const AroundState& before) {
  const bool upwards = before.pages != 0 && in.address == before.up;
  const bool downwards = before.pages != 0 && in.address + kPageSize == before.down;
  // Near the limit windows do not grow and there are no blocks; at the limit only the page itself is mapped.
  const bool near_limit = in.free_frames < in.total_frames / 8;
  const bool at_limit = in.free_frames < 2ull * in.window;

  unsigned pages = in.window;
  if (in.window == 1 || at_limit) {
    pages = 1;
  } else if (!near_limit) {
    if (const unsigned blocks = blocks_for(in, before, upwards)) {
      AroundPlan plan{.blocks = blocks, .next = {}};
      plan.next.down = align_down(in.address, kBlockSize);
      plan.next.up = plan.next.down + blocks * kBlockSize;
      plan.next.pages = blocks * kPagesPerBlock;
      // If no block is free, this window is mapped instead.
      plan.start = std::max(align_down(in.address, in.window * kPageSize), in.start);
      plan.end = std::min(align_down(in.address, in.window * kPageSize) + in.window * kPageSize, in.end);
      return plan;
    }
    if (upwards || downwards) pages = std::min(std::max(4 * before.pages, in.window), kPagesPerBlock);
    if (in.populated >= kDenseWindows * in.window) pages = kPagesPerBlock;
    // Growing may not ask for more than there is.
    while (pages > in.window && pages > in.free_frames) pages /= 4;
    pages = std::max(pages, in.window);
  }
  const Gva window = align_down(in.address, pages * kPageSize);
  AroundPlan plan;
  plan.start = std::max(window, in.start);
  plan.end = std::min(window + pages * kPageSize, in.end);
  // A small region is mapped whole, by one exit, even if the windows' bounds would cut it.
  if (pages > 1 && !near_limit && in.end - in.start <= kWholeWindows * in.window * kPageSize) {
    plan.start = in.start;
    plan.end = in.end;
  }
  plan.next = {.up = plan.end, .down = plan.start, .pages = pages};
  return plan;
}

}  // namespace ramet::mm
