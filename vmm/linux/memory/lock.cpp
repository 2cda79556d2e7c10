#include "vmm/linux/memory/lock.hpp"

#include <linux/capability.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "vmm/linux/checked.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/user_memory.hpp"

namespace ramet::vmm {
namespace {

using mm::align_up, mm::kPageSize;

bool exempt(const Thread& thread) { return thread.credentials()->may(CAP_IPC_LOCK); }
bool may_lock(Thread& thread) { return exempt(thread) || thread.process.limits.soft(RLIMIT_MEMLOCK) != 0; }

// [address, address+length) in whole pages. Errors: EINVAL if the end wraps. A length that wraps when it is rounded is
// 0, as on Linux.
struct Pages {
  mm::Gva start = 0, end = 0;
};
OrErrno<Pages> pages(mm::Gva address, std::uint64_t length) {
  const mm::Gva start = mm::align_down(address, kPageSize);
  const auto end = checked_sum(start, align_up(length + (address - start), kPageSize));
  if (!end) return err(EINVAL);
  return Pages{start, *end};
}

// All regions, in order.
std::vector<Pages> mapped(const mm::AddressSpace& memory) {
  std::vector<Pages> all;
  memory.visit_regions([&](const mm::Region& r) { all.push_back({r.start, r.end}); });
  return all;
}

std::uint64_t locked_within(const mm::AddressSpace& memory, Pages p) {
  std::uint64_t bytes = 0;
  memory.visit_regions([&](const mm::Region& r) {
    const mm::Gva start = std::max(r.start, p.start), end = std::min(r.end, p.end);
    if (r.locked && end > start) bytes += end - start;
  });
  return bytes;
}

std::int64_t change(Thread& thread, Pages p, mm::Advice advice) {
  auto done = thread.memory().advise(p.start, p.end - p.start, advice);
  return done ? 0 : -errno_of(done.error());
}

std::int64_t lock(Thread& thread, const Args& a, bool on_fault) {
  if (!may_lock(thread)) return -EPERM;
  auto p = pages(a[0], a[1]);
  if (!p) return -p.error();
  const std::uint64_t bytes = p->end - p->start;
  if (beyond_lock_limit(thread, bytes) && beyond_lock_limit(thread, bytes - locked_within(thread.memory(), *p)))
    return -ENOMEM;
  if (std::int64_t bad = change(thread, *p, mm::Advice::Lock)) return bad;
  return on_fault ? 0 : populate_locked(thread, p->start, p->end);
}

std::int64_t sys_mlock(Thread& thread, const Args& a) { return lock(thread, a, false); }
std::int64_t sys_mlock2(Thread& thread, const Args& a) {
  return a.u32(2) & ~MLOCK_ONFAULT ? -EINVAL : lock(thread, a, a.u32(2) & MLOCK_ONFAULT);
}
std::int64_t sys_munlock(Thread& thread, const Args& a) {
  auto p = pages(a[0], a[1]);
  return p ? change(thread, *p, mm::Advice::Unlock) : -p.error();
}

std::int64_t sys_mlockall(Thread& thread, const Args& a) {
  const unsigned flags = a.u32(0);
  if (flags == 0 || (flags & ~unsigned{MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT}) || flags == MCL_ONFAULT) return -EINVAL;
  if (!may_lock(thread)) return -EPERM;
  const auto all = mapped(thread.memory());
  if ((flags & MCL_CURRENT) && !exempt(thread)) {
    std::uint64_t total = 0;
    for (const Pages& p : all) total += p.end - p.start;
    if (total > thread.process.limits.soft(RLIMIT_MEMLOCK)) return -ENOMEM;
  }
  thread.image().lock_to_come.store(flags & MCL_FUTURE ? flags & (MCL_FUTURE | MCL_ONFAULT) : 0,
                                    std::memory_order_relaxed);
  if (!(flags & MCL_CURRENT)) return 0;
  // Regions that other threads unmap meanwhile are no error, nor pages that cannot be populated.
  for (const Pages& p : all) {
    if (thread.should_stop_waiting()) break;
    (void)change(thread, p, mm::Advice::Lock);
    if (!(flags & MCL_ONFAULT)) (void)populate_locked(thread, p.start, p.end);
  }
  return 0;
}

std::int64_t sys_munlockall(Thread& thread, const Args&) {
  thread.image().lock_to_come.store(0, std::memory_order_relaxed);
  for (const Pages& p : mapped(thread.memory())) (void)change(thread, p, mm::Advice::Unlock);
  return 0;
}

}  // namespace

std::uint64_t locked_bytes(const mm::AddressSpace& memory) { return locked_within(memory, {0, ~mm::Gva{0}}); }

bool beyond_lock_limit(Thread& thread, std::uint64_t more) {
  if (exempt(thread)) return false;
  const rlim64_t limit = thread.process.limits.soft(RLIMIT_MEMLOCK);
  return limit != RLIM64_INFINITY && (more > limit || locked_bytes(thread.memory()) > limit - more);
}

std::int64_t lock_as_asked(Thread& thread, mm::MapRequest& request, bool asked) {
  const unsigned to_come = thread.image().lock_to_come.load(std::memory_order_relaxed);
  if (!asked && !to_come) return 0;
  if (asked && !may_lock(thread)) return -EPERM;
  if (beyond_lock_limit(thread, align_up(request.length, kPageSize))) return -EAGAIN;
  request.locked = true;
  request.populate = request.populate || asked || !(to_come & MCL_ONFAULT);
  return 0;
}

std::int64_t populate_locked(Thread& thread, mm::Gva start, mm::Gva end) {
  while (start < end) {
    auto region = thread.memory().find_region(start);
    if (!region) return -ENOMEM;
    const mm::Gva to = std::min(end, region->end);
    const bool write = mm::has(region->prot, mm::Prot::Write) && !region->shared;
    auto done = thread.memory().advise(start, to - start, write ? mm::Advice::PopulateWrite : mm::Advice::PopulateRead);
    if (!done) return done.error() == mm::Error::NoMemory ? -EAGAIN : -ENOMEM;
    start = to;
  }
  return 0;
}

std::span<const Definition> memory_lock_calls() {
  static constexpr Definition kCalls[] = {
      {Call::mlock, sys_mlock},       {Call::mlock2, sys_mlock2},         {Call::munlock, sys_munlock},
      {Call::mlockall, sys_mlockall}, {Call::munlockall, sys_munlockall},
  };
  return kCalls;
}

}  // namespace ramet::vmm
