// System calls about memory: arguments checked as Linux checks them, then handed to the address space.
#include <fcntl.h>
#include <linux/membarrier.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "vmm/linux/checked.hpp"
#include "vmm/linux/memory/lock.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/user_memory.hpp"

namespace ramet::vmm {
namespace {

using mm::align_up, mm::is_aligned, mm::kPageSize;

constexpr mm::Gva kMinAddress = 0x10000;  // vm.mmap_min_addr
constexpr int kMap32Bit = 0x40;  // MAP_32BIT, which x86-64's headers alone have
constexpr mm::Gva kLowEnd = 0x8000'0000;  // its end: 2 GiB
constexpr int kMapSync = 0x80000;
constexpr int kKnownFlags = MAP_TYPE | MAP_FIXED | MAP_ANONYMOUS | kMap32Bit | MAP_GROWSDOWN | MAP_DENYWRITE |
                            MAP_EXECUTABLE | MAP_LOCKED | MAP_NORESERVE | MAP_POPULATE | MAP_NONBLOCK | MAP_STACK |
                            MAP_FIXED_NOREPLACE | MAP_HUGETLB;
constexpr int kProtGrowsDown = 0x01000000, kProtGrowsUp = 0x02000000, kProtSem = 8;

mm::Prot prot_of(unsigned prot) { return mm::Prot(prot & (PROT_READ | PROT_WRITE | PROT_EXEC)); }

bool refused_wx(const Process& process, unsigned prot) {
  return process.deny_wx && (prot & PROT_WRITE) && (prot & PROT_EXEC);
}

// Refuses at once what could never fit, and promises everything else, as Linux's heuristic overcommit.
bool beyond_memory(Thread& thread, std::uint64_t length, bool writable, bool reserve) {
  return writable && reserve && length > thread.memory().limit_bytes();
}

// Whether `more` bytes (`data`: private and writable) and what is mapped outside of [from, to) exceed RLIMIT_AS or
// RLIMIT_DATA. Regions are summed up only if one of these limits is set.
bool beyond_limits(Thread& thread, std::uint64_t more, bool data, mm::Gva from = 0, mm::Gva to = 0) {
  Limits& limits = thread.process.limits;
  rlim64_t most, most_data;
  {
    LockGuard guard(limits.lock);
    most = limits.value[RLIMIT_AS].rlim_cur;
    most_data = data ? limits.value[RLIMIT_DATA].rlim_cur : RLIM64_INFINITY;
  }
  if (most == RLIM64_INFINITY && most_data == RLIM64_INFINITY) return false;
  std::uint64_t all = more, all_data = more;
  thread.memory().visit_regions([&](const mm::Region& r) {
    const mm::Gva start = std::max(r.start, from), end = std::min(r.end, to);
    const std::uint64_t counted = r.length() - (end > start ? end - start : 0);
    all += counted;
    if (mm::has(r.prot, mm::Prot::Write) && !r.shared && !r.grows_down) all_data += counted;
  });
  return all > most || all_data > most_data;
}

// --- mmap ---

// The highest gap below 2 GiB. 0: none.
mm::Gva find_low_gap(mm::AddressSpace& memory, std::uint64_t length) {
  mm::Gva end_of_last = kMinAddress, found = 0;
  auto consider = [&](mm::Gva from, mm::Gva to) {
    if (to > from && to - from >= length) found = to - length;
  };
  memory.visit_regions([&](const mm::Region& r) {
    if (r.start >= kLowEnd && end_of_last >= kLowEnd) return;
    consider(end_of_last, std::min(r.start, kLowEnd));
    end_of_last = std::max(end_of_last, std::min(r.end, kLowEnd));
  });
  consider(end_of_last, kLowEnd);
  return found;
}

// MAP_32BIT: at the address asked for, if that is below 2 GiB and free; else in the highest gap below 2 GiB.
std::int64_t map_low(Thread& thread, mm::MapRequest request) {
  const std::uint64_t bytes = align_up(request.length, kPageSize);
  bool as_wanted = request.address >= kMinAddress && bytes <= kLowEnd && request.address <= kLowEnd - bytes;
  request.fixed = request.no_replace = true;
  // Another thread may take the gap meanwhile: then the next one is looked for.
  for (;; as_wanted = false) {
    if (!as_wanted) request.address = find_low_gap(thread.memory(), bytes);
    if (!request.address) return -ENOMEM;
    auto at = thread.memory().map(request);
    if (at) return static_cast<std::int64_t>(*at);
    if (at.error() != mm::Error::Exists) return -errno_of(at.error());
  }
}

std::int64_t sys_mmap(Thread& thread, const Args& a) {
  const std::uint64_t address = a[0], length = a[1];
  std::uint64_t offset = a[5];
  const unsigned prot = a.u32(2);
  int flags = a.i32(3);
  if (!is_aligned(offset, kPageSize)) return -EINVAL;
  const int type = flags & MAP_TYPE;
  const bool anonymous = flags & MAP_ANONYMOUS;
  std::shared_ptr<OpenFile> file = anonymous ? nullptr : thread.process.files.get(a.i32(4));
  if (!anonymous && !file) return -EBADF;
  if (length == 0) return -EINVAL;
  if (length > thread.abi().user_end) return -ENOMEM;
  const std::uint64_t bytes = align_up(length, kPageSize);
  if (!anonymous && offset + bytes < offset) return -EOVERFLOW;
  if (type != MAP_SHARED && type != MAP_PRIVATE && (type != MAP_SHARED_VALIDATE || anonymous)) return -EINVAL;
  if (type == MAP_SHARED_VALIDATE && (flags & ~kKnownFlags)) return -EOPNOTSUPP;
  if (flags & kMapSync) flags &= ~kMapSync;  // ignored without MAP_SHARED_VALIDATE
  if (flags & MAP_HUGETLB) return -ENOMEM;  // there is no pool of huge pages to take from
  const bool shared = type != MAP_PRIVATE;
  const bool fixed = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE);
  if (fixed) {
    if (!is_aligned(address, kPageSize)) return -EINVAL;
    if (address > thread.abi().user_end - bytes) return -ENOMEM;
    if (address < kMinAddress) return -EPERM;
  }
  if (refused_wx(thread.process, prot)) return -EACCES;
  if (beyond_memory(thread, bytes, (prot & PROT_WRITE) && (anonymous || !shared), !(flags & MAP_NORESERVE)))
    return -ENOMEM;

  const mm::Gva replaced_to = flags & MAP_FIXED ? address + bytes : address;
  if (beyond_limits(thread, bytes, (prot & PROT_WRITE) && !shared, address, replaced_to)) return -ENOMEM;

  mm::MapRequest request;
  request.address = fixed ? address : mm::align_down(address, kPageSize);
  request.length = length;
  request.prot = prot_of(prot);
  request.fixed = fixed;
  request.no_replace = flags & MAP_FIXED_NOREPLACE;
  request.shared = shared;
  request.grows_down = anonymous && !shared && (flags & MAP_GROWSDOWN);
  request.populate = flags & MAP_POPULATE;
  if (std::int64_t bad = lock_as_asked(thread, request, flags & MAP_LOCKED)) return bad;
  if (!anonymous) {
    auto backing = thread.process.files.backing(file, shared, prot & PROT_WRITE, offset, bytes,
                                                thread.memory().physical());
    if (!backing) return -backing.error();
    request.backing = std::move(*backing);
    request.offset = offset;
    if (!request.backing) request.offset = 0;  // /dev/zero
    if (shared && (file->flags & O_ACCMODE) == O_RDONLY) request.max_prot = mm::Prot::Read | mm::Prot::Exec;
  }
  if (shared && !request.backing) {
    auto backing = thread.process.files.shared_memory(bytes, thread.memory());
    if (!backing) return -backing.error();
    request.backing = std::move(*backing);
  }
  if ((flags & kMap32Bit) && !fixed) return map_low(thread, std::move(request));
  auto at = thread.memory().map(request);
  return at ? static_cast<std::int64_t>(*at) : -errno_of(at.error());
}

// --- the rest of the map ---

// Rounds [address, address+length) to pages. EINVAL if misaligned, ENOMEM if it leaves user space.
OrErrno<std::uint64_t> page_range(const Thread& thread, mm::Gva address, std::uint64_t length) {
  if (!is_aligned(address, kPageSize)) return err(EINVAL);
  if (length > thread.abi().user_end || address > thread.abi().user_end - align_up(length, kPageSize))
    return err(ENOMEM);
  return align_up(length, kPageSize);
}

std::int64_t sys_munmap(Thread& thread, const Args& a) {
  auto bytes = page_range(thread, a[0], a[1]);
  if (!bytes || *bytes == 0) return -EINVAL;
  auto r = thread.memory().unmap(a[0], *bytes);
  return r ? 0 : -errno_of(r.error());
}

std::int64_t sys_mprotect(Thread& thread, const Args& a) {
  unsigned prot = a.u32(2);
  const unsigned grows = prot & (kProtGrowsDown | kProtGrowsUp);
  if (grows == (kProtGrowsDown | kProtGrowsUp)) return -EINVAL;
  prot &= ~grows;
  auto bytes = page_range(thread, a[0], a[1]);
  if (!bytes) return -bytes.error();
  if (*bytes == 0) return 0;
  if (prot & ~(PROT_READ | PROT_WRITE | PROT_EXEC | kProtSem)) return -EINVAL;
  if (refused_wx(thread.process, prot)) return -EACCES;
  if (beyond_memory(thread, *bytes, prot & PROT_WRITE, true)) return -ENOMEM;
  mm::Gva start = a[0], end = a[0] + *bytes;
  if (grows) {
    auto region = thread.memory().find_region(start);
    if (!region) return -ENOMEM;
    if (grows == kProtGrowsUp || !region->grows_down) return -EINVAL;
    start = region->start;
  }
  auto r = thread.memory().protect(start, end - start, prot_of(prot));
  return r ? 0 : -errno_of(r.error());
}

// The backing of a shared mapping of a file ends where the mapping did: one that grows beyond gets a larger backing.
OrErrno<void> larger_backing(Thread& thread, const mm::Region& region, mm::RemapRequest& request) {
  auto file = Files::file_of(*region.backing);
  std::uint64_t offset = region.offset_of(request.address);
  const auto shown = region.backing->shared();
  if (!file || offset + request.new_length - shown.bank_offset <= shown.bank->size()) return {};
  auto larger = thread.process.files.backing(file, true, mm::has(region.max_prot, mm::Prot::Write), offset,
                                             request.new_length, thread.memory().physical());
  if (!larger) return err(larger.error());
  request.backing = std::move(*larger);
  request.in_place_of = region.backing;
  return {};
}

std::int64_t sys_mremap(Thread& thread, const Args& a) {
  const std::uint64_t flags = a[3];
  if (flags & ~std::uint64_t{MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP}) return -EINVAL;
  mm::RemapRequest request{.address = a[0],
                           .old_length = a[1],
                           .new_length = a[2],
                           .may_move = (flags & MREMAP_MAYMOVE) != 0,
                           .fixed = (flags & MREMAP_FIXED) != 0,
                           .dont_unmap = (flags & MREMAP_DONTUNMAP) != 0,
                           .new_address = a[4]};
  if ((request.fixed || request.dont_unmap) && !request.may_move) return -EINVAL;
  if (!is_aligned(request.address, kPageSize) || request.new_length == 0) return -EINVAL;
  if (request.new_length > thread.abi().user_end || request.old_length > thread.abi().user_end ||
      request.address > thread.abi().user_end)
    return -EINVAL;
  request.old_length = align_up(request.old_length, kPageSize);
  request.new_length = align_up(request.new_length, kPageSize);
  if (request.dont_unmap && request.old_length != request.new_length) return -EINVAL;
  if (request.fixed) {
    if (!is_aligned(request.new_address, kPageSize)) return -EINVAL;
    if (request.new_address > thread.abi().user_end - request.new_length) return -EINVAL;
    if (request.new_address < kMinAddress) return -EPERM;
    if (request.new_address < request.address + request.old_length &&
        request.address < request.new_address + request.new_length)
      return -EINVAL;
  }
  auto region = thread.memory().find_region(request.address);
  if (!region) return -EFAULT;
  if (request.new_length > request.old_length &&
      beyond_memory(thread, request.new_length,
                    mm::has(region->prot, mm::Prot::Write) && !(region->shared && region->backing), true))
    return -ENOMEM;
  if (request.new_length > request.old_length &&
      beyond_limits(thread, request.new_length - request.old_length,
                    mm::has(region->prot, mm::Prot::Write) && !region->shared))
    return -ENOMEM;
  if (region->locked && request.new_length > request.old_length &&
      beyond_lock_limit(thread, request.new_length - request.old_length))
    return -EAGAIN;
  if (region->shared && region->backing && request.new_length > request.old_length) {
    if (auto larger = larger_backing(thread, *region, request); !larger) return -larger.error();
  }
  auto at = thread.memory().remap(request);
  if (at) {
    // As on Linux, pages that cannot be populated are no error.
    if (region->locked && request.new_length > request.old_length)
      (void)populate_locked(thread, *at + request.old_length, *at + request.new_length);
    return static_cast<std::int64_t>(*at);
  }
  return at.error() == mm::Error::NotMapped ? -EFAULT : -errno_of(at.error());
}

std::int64_t sys_madvise(Thread& thread, const Args& a) {
  mm::Advice advice;
  switch (a.i32(2)) {
    case MADV_NORMAL:
    case MADV_RANDOM:
    case MADV_SEQUENTIAL:
    case MADV_MERGEABLE:  // hints without an effect that a program could see
    case MADV_UNMERGEABLE:
    case MADV_DONTDUMP:
    case MADV_DODUMP:
    case MADV_WILLNEED: advice = mm::Advice::WillNeed; break;
    case MADV_COLD:  // nothing is reclaimed: only checks that memory is mapped and not locked
    case MADV_PAGEOUT: advice = mm::Advice::Cold; break;
    case MADV_DONTNEED_LOCKED: advice = mm::Advice::DontNeedLocked; break;
    case MADV_DONTNEED: advice = mm::Advice::DontNeed; break;
    case MADV_FREE: advice = mm::Advice::Free; break;
    case MADV_DONTFORK: advice = mm::Advice::DontFork; break;
    case MADV_DOFORK: advice = mm::Advice::DoFork; break;
    case MADV_WIPEONFORK: advice = mm::Advice::WipeOnFork; break;
    case MADV_KEEPONFORK: advice = mm::Advice::KeepOnFork; break;
    case MADV_HUGEPAGE: advice = mm::Advice::Huge; break;
    case MADV_NOHUGEPAGE: advice = mm::Advice::NoHuge; break;
    case MADV_POPULATE_READ: advice = mm::Advice::PopulateRead; break;
    case MADV_POPULATE_WRITE: advice = mm::Advice::PopulateWrite; break;
    default: return -EINVAL;
  }
  const std::uint64_t bytes = align_up(a[1], kPageSize);  // 0 if it wraps
  if (!is_aligned(a[0], kPageSize) || bytes < a[1] || a[0] + bytes < a[0]) return -EINVAL;
  auto r = thread.memory().advise(a[0], bytes, advice);
  if (r) return 0;
  // madvise(2): EINVAL where a populating access is not permitted.
  bool populate = advice == mm::Advice::PopulateRead || advice == mm::Advice::PopulateWrite;
  if (populate && r.error() == mm::Error::NotPermitted) return -EINVAL;
  return -errno_of(r.error());
}

std::int64_t sys_msync(Thread& thread, const Args& a) {
  const int flags = a.i32(2);
  if (flags & ~(MS_ASYNC | MS_INVALIDATE | MS_SYNC)) return -EINVAL;
  if ((flags & MS_ASYNC) && (flags & MS_SYNC)) return -EINVAL;
  if (is_aligned(a[0], kPageSize) && align_up(a[1], kPageSize) == 0)
    return 0;  // the rounded length wraps to 0, as on Linux
  auto bytes = page_range(thread, a[0], a[1]);
  if (!bytes) return -bytes.error();
  auto r = thread.memory().sync(a[0], *bytes, flags & MS_SYNC);
  return r ? 0 : -errno_of(r.error());
}

std::int64_t sys_mincore(Thread& thread, const Args& a) {
  auto bytes = page_range(thread, a[0], a[1]);
  if (!bytes) return -bytes.error();
  // In parts, as the guest chooses the length: the answer has a byte for each page.
  constexpr std::uint64_t kPart = 4096;
  std::vector<std::uint8_t> part;
  for (std::uint64_t page = 0, pages = *bytes / kPageSize; page < pages; page += part.size()) {
    part.assign(std::min(kPart, pages - page), 0);
    auto r = thread.memory().residency(a[0] + page * kPageSize, part.size() * kPageSize, part);
    if (!r) return -errno_of(r.error());
    if (!thread.memory().write(a[2] + page, std::as_bytes(std::span(part)))) return -EFAULT;
  }
  return 0;
}

std::int64_t sys_brk(Thread& thread, const Args& a) {
  Image& image = thread.image();
  LockGuard guard(image.brk_lock);
  const mm::Gva wanted = a[0];
  if (wanted < image.brk_start || wanted > thread.abi().user_end - kPageSize)
    return static_cast<std::int64_t>(image.brk);
  const mm::Gva old_end = align_up(image.brk, kPageSize), new_end = align_up(wanted, kPageSize);
  if (new_end > old_end) {
    if (beyond_memory(thread, new_end - image.brk_start, true, true) || beyond_limits(thread, new_end - old_end, true))
      return static_cast<std::int64_t>(image.brk);
    mm::MapRequest more{.address = old_end,
                        .length = new_end - old_end,
                        .prot = mm::Prot::Read | mm::Prot::Write,
                        .fixed = true,
                        .no_replace = true,
                        .backing = nullptr,
                        .name = "[heap]"};
    if (lock_as_asked(thread, more, false) != 0 || !thread.memory().map(more))
      return static_cast<std::int64_t>(image.brk);
  } else if (new_end < old_end) {
    if (!thread.memory().unmap(new_end, old_end - new_end)) return static_cast<std::int64_t>(image.brk);
  }
  image.brk = wanted;
  return static_cast<std::int64_t>(wanted);
}

// The host's own call does it: guest threads are host threads of this process, and the interrupts that the host's
// kernel sends to their processors leave guest mode and return through a full barrier.
std::int64_t sys_membarrier(Thread&, const Args& a) {
  constexpr int kServed = MEMBARRIER_CMD_GLOBAL | MEMBARRIER_CMD_GLOBAL_EXPEDITED |
                          MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED | MEMBARRIER_CMD_PRIVATE_EXPEDITED |
                          MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED | MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE |
                          MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE;
  const int command = a.i32(0);
  if (a.u32(1) != 0) return -EINVAL;
  if (command != MEMBARRIER_CMD_QUERY && (command & ~kServed)) return -EINVAL;
  long r = syscall(SYS_membarrier, command, 0, 0);
  if (r < 0) return -errno;
  return command == MEMBARRIER_CMD_QUERY ? r & kServed : r;
}

}  // namespace

std::span<const Definition> memory_calls() {
  static constexpr Definition kCalls[] = {
      {Call::mmap, sys_mmap},       {Call::munmap, sys_munmap},   {Call::mprotect, sys_mprotect},
      {Call::mremap, sys_mremap},   {Call::madvise, sys_madvise}, {Call::msync, sys_msync},
      {Call::mincore, sys_mincore}, {Call::brk, sys_brk},         {Call::membarrier, sys_membarrier},
  };
  return kCalls;
}

}  // namespace ramet::vmm
