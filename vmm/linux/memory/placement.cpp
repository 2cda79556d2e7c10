// System calls about NUMA placement, over two nodes that are a model (FramePool::kNodes). Pages move between them while
// the program runs, see AddressSpace::migrate(). Differences from Linux: only the lowest node of a policy counts, so
// nothing is interleaved; threads have no policy of their own.
#include <linux/mempolicy.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <vector>

#include "guest-mm/frame_pool.hpp"
#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/process.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/user_memory.hpp"

namespace ramet::vmm {
namespace {

using mm::FramePool, mm::MoveReason, mm::kPageSize;

constexpr std::uint64_t kAllNodes = (1u << FramePool::kNodes) - 1;

// Reads a node mask. `bits`: as the calls take it, one more than the mask has. Errors: EFAULT; EINVAL, also for a node
// that does not exist.
OrErrno<std::uint64_t> read_nodes(Thread& thread, mm::Gva at, std::uint64_t bits) {
  constexpr std::uint64_t kMostBits = 8 * kPageSize;
  if (bits != 0) --bits;
  if (at == 0 || bits == 0) return 0;
  if (bits > kMostBits) return err(EINVAL);
  const auto words = read_user_array<std::uint64_t>(thread.memory(), at, (bits + 63) / 64, kMostBits / 64);
  if (!words) return err(words.error());
  std::uint64_t nodes = (*words)[0];
  if (bits < 64) nodes &= (std::uint64_t{1} << bits) - 1;
  const bool beyond = std::any_of(words->begin() + 1, words->end(), [](std::uint64_t w) { return w != 0; });
  if (beyond || (nodes & ~kAllNodes)) return err(EINVAL);
  return nodes;
}

// 0 for the calling process, the only one whose memory can be moved; else EPERM or ESRCH.
int check_own(Thread& thread, int pid) {
  return pid == 0 || pid == thread.process.pid ? 0 : thread.process.family.find(pid) ? EPERM : ESRCH;
}

// What move_pages(2) stores for a page: its node, after a move if there is a `to`; or -errno.
int status_of(mm::AddressSpace& memory, mm::Gva page, std::optional<unsigned> to) {
  if (!memory.find_region(page)) return -EFAULT;
  const auto node = memory.node_of(page);
  if (!node) return -ENOENT;
  if (!to || *node == *to) return static_cast<int>(*node);
  const auto done = memory.migrate({.address = page, .length = kPageSize, .reason = MoveReason::Explicit, .node = to});
  if (!done) return -EFAULT;
  if (done->moved) return static_cast<int>(*to);
  return done->pinned ? -EBUSY : done->shared ? -EACCES : done->failed ? -ENOMEM : -ENOENT;
}

std::int64_t sys_move_pages(Thread& thread, const Args& a) {
  const std::uint64_t count = a[1];
  const mm::Gva pages = a[2], nodes = a[3], status = a[4];
  if (a.u32(5) & ~unsigned(MPOL_MF_MOVE | MPOL_MF_MOVE_ALL)) return -EINVAL;
  if (const int e = check_own(thread, a.i32(0))) return -e;
  if (count > ~std::uint64_t{0} / 16) return -E2BIG;
  std::int64_t stayed = 0;
  constexpr std::uint64_t kPart = 512;
  for (std::uint64_t done = 0; done < count;) {
    const std::uint64_t n = std::min(kPart, count - done);
    const auto addresses = read_user_array<mm::Gva>(thread.memory(), pages + 8 * done, n, kPart);
    if (!addresses) return -addresses.error();
    auto numbers = OrErrno<std::vector<int>>(std::vector<int>(n, -1));
    if (nodes) numbers = read_user_array<int>(thread.memory(), nodes + 4 * done, n, kPart);
    if (!numbers) return -numbers.error();
    std::vector<int> answers(n);
    for (std::uint64_t i = 0; i < n; ++i) {
      const int to = (*numbers)[i];
      if (nodes && (to < 0 || to >= int(FramePool::kNodes))) return -ENODEV;
      answers[i] = status_of(thread.memory(), mm::align_down((*addresses)[i], kPageSize),
                             nodes ? std::optional(unsigned(to)) : std::nullopt);
      stayed += nodes && (answers[i] == -EBUSY || answers[i] == -ENOMEM || answers[i] == -EACCES);
    }
    if (!thread.memory().write(status + 4 * done, std::as_bytes(std::span(answers)))) return -EFAULT;
    done += n;
    if (done < count && thread.should_stop_waiting()) return -EINTR;
  }
  return stayed;
}

std::int64_t sys_mbind(Thread& thread, const Args& a) {
  constexpr std::uint64_t kModeFlags = MPOL_F_STATIC_NODES | MPOL_F_RELATIVE_NODES;
  const std::uint64_t mode = a[2] & ~kModeFlags, flags = a.u32(5);
  if (mode > MPOL_PREFERRED_MANY || (flags & ~std::uint64_t{MPOL_MF_VALID})) return -EINVAL;
  const auto nodes = read_nodes(thread, a[3], a[4]);
  if (!nodes) return -nodes.error();
  const bool takes_nodes = mode == MPOL_BIND || mode == MPOL_INTERLEAVE || mode == MPOL_PREFERRED_MANY;
  if ((takes_nodes && *nodes == 0) || ((mode == MPOL_DEFAULT || mode == MPOL_LOCAL) && *nodes != 0)) return -EINVAL;
  const std::uint64_t length = mm::align_up(a[1], kPageSize);
  if (!mm::is_aligned(a[0], kPageSize) || length < a[1]) return -EINVAL;
  if (length == 0) return 0;
  const auto node = *nodes ? std::optional(static_cast<unsigned>(std::countr_zero(*nodes))) : std::nullopt;
  if (auto bound = thread.memory().bind(a[0], length, node); !bound)
    return bound.error() == mm::Error::NotMapped ? -EFAULT : -errno_of(bound.error());
  if (!node || !(flags & (MPOL_MF_MOVE | MPOL_MF_MOVE_ALL))) return 0;
  const auto moved = thread.memory().migrate(
      {.address = a[0], .length = length, .reason = MoveReason::Explicit, .node = node});
  if (!moved) return -errno_of(moved.error());
  return (flags & MPOL_MF_STRICT) && moved->pinned + moved->shared + moved->failed ? -EIO : 0;
}

std::int64_t sys_get_mempolicy(Thread& thread, const Args& a) {
  const mm::Gva mode_at = a[0], nodes_at = a[1], address = a[3];
  const std::uint64_t bits = a[2], flags = a[4];
  if (flags & ~std::uint64_t{MPOL_F_NODE | MPOL_F_ADDR | MPOL_F_MEMS_ALLOWED}) return -EINVAL;
  if (nodes_at && bits < FramePool::kNodes) return -EINVAL;
  if ((flags & MPOL_F_MEMS_ALLOWED) && (flags & (MPOL_F_NODE | MPOL_F_ADDR))) return -EINVAL;
  if (!(flags & MPOL_F_ADDR) && address) return -EINVAL;
  int mode = MPOL_DEFAULT;
  std::uint64_t nodes = flags & MPOL_F_MEMS_ALLOWED ? kAllNodes : 0;
  if (flags & MPOL_F_ADDR) {
    const auto region = thread.memory().find_region(address);
    if (!region) return -EFAULT;
    if (region->node) mode = MPOL_BIND, nodes = std::uint64_t{1} << *region->node;
    if (flags & MPOL_F_NODE) {  // as Linux: the page is there when this returns
      std::byte first;
      if (!thread.memory().read(address, {&first, 1})) return -EFAULT;
      mode = static_cast<int>(thread.memory().node_of(address).value_or(0));
    }
  } else if (flags & MPOL_F_NODE) {
    return -EINVAL;  // the next node of an interleave policy, which threads do not have
  }
  if (mode_at)
    if (auto put = write_user(thread.memory(), mode_at, mode); !put) return -EFAULT;
  if (!nodes_at) return 0;
  const std::uint64_t words = (bits + 63) / 64;
  if (words > kPageSize / 8) return -EINVAL;
  std::vector<std::uint64_t> mask(words);
  mask[0] = nodes;
  return thread.memory().write(nodes_at, std::as_bytes(std::span(mask))) ? 0 : -EFAULT;
}

std::int64_t sys_migrate_pages(Thread& thread, const Args& a) {
  if (const int e = check_own(thread, a.i32(0))) return -e;
  const auto from = read_nodes(thread, a[2], a[1]), to = read_nodes(thread, a[3], a[1]);
  if (!from || !to) return -(from ? to.error() : from.error());
  if (*to == 0) return -EINVAL;
  if ((*from & ~*to) == 0) return 0;
  const unsigned node = static_cast<unsigned>(std::countr_zero(*to));
  std::vector<std::pair<mm::Gva, std::uint64_t>> ranges;
  thread.memory().visit_regions([&](const mm::Region& r) {
    if (!r.shared) ranges.emplace_back(r.start, r.length());
  });
  std::int64_t stayed = 0;
  for (const auto& [start, length] : ranges) {
    const auto moved = thread.memory().migrate(
        {.address = start, .length = length, .reason = MoveReason::Explicit, .node = node});
    if (moved) stayed += static_cast<std::int64_t>(moved->pinned + moved->failed);
  }
  return stayed;
}

}  // namespace

std::span<const Definition> placement_calls() {
  static constexpr Definition kCalls[] = {
      {Call::move_pages, sys_move_pages},
      {Call::mbind, sys_mbind},
      {Call::get_mempolicy, sys_get_mempolicy},
      {Call::migrate_pages, sys_migrate_pages},
  };
  return kCalls;
}

}  // namespace ramet::vmm
