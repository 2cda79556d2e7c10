// shmget, shmat, shmdt, shmctl.
#include "vmm/linux/memory/sysv.hpp"

#include <fmt/format.h>
#include <linux/capability.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <ctime>
#include <utility>
#include <vector>

#include "vmm/linux/memory/lock.hpp"
#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/user_memory.hpp"

namespace ramet::vmm {
namespace {

using Segment = SysvMemory::Segment;

constexpr std::uint64_t kMaxSize = ULONG_MAX - (1ul << 24);  // SHMMAX of Linux
constexpr unsigned kRead = S_IRUSR, kWrite = S_IWUSR, kExecute = S_IXUSR;

bool owns(const Credentials& c, const Segment& s) {
  const auto& perm = s.state.shm_perm;
  return c.user.effective == perm.uid || c.user.effective == perm.cuid;
}
bool permitted(const Credentials& c, const Segment& s, unsigned wanted) {
  const auto& perm = s.state.shm_perm;
  const auto in = [&](gid_t id) { return id == c.group.effective || std::ranges::binary_search(c.groups, id); };
  const unsigned granted = owns(c, s) ? perm.mode : in(perm.gid) || in(perm.cgid) ? perm.mode << 3 : perm.mode << 6;
  return !(wanted & ~granted & S_IRWXU) || c.may(CAP_IPC_OWNER);
}

// How many regions map the memory, in all processes: shm_nattch.
shmatt_t attached(Family& family, const mm::Backing& memory) {
  shmatt_t count = 0;
  std::vector<std::shared_ptr<Image>> seen;  // a vfork child has its parent's
  for (const auto& process : family.all()) {
    auto image = process->image();
    if (!image || std::ranges::find(seen, image) != seen.end()) continue;
    image->memory().visit_regions([&](const mm::Region& r) { count += r.backing.get() == &memory; });
    seen.push_back(std::move(image));
  }
  return count;
}

// Null: there is none, or it was removed and nobody has it mapped any more.
Segment* find(Family& family, int id) RAMET_REQUIRES(family.sysv_memory.lock) {
  auto found = family.sysv_memory.segments.find(id);
  if (found == family.sysv_memory.segments.end()) return nullptr;
  Segment& segment = found->second;
  if (segment.kept) return &segment;
  auto memory = segment.memory.lock();
  if (memory && attached(family, *memory) != 0) return &segment;
  family.sysv_memory.segments.erase(found);
  return nullptr;
}

std::int64_t sys_shmget(Thread& thread, const Args& a) {
  SysvMemory& all = thread.process.family.sysv_memory;
  const key_t key = a.i32(0);
  const std::uint64_t size = a[1];
  const unsigned flags = a.u32(2);
  LockGuard guard(all.lock);
  if (key != IPC_PRIVATE) {
    for (auto& [id, s] : all.segments) {
      if (s.state.shm_perm.__key != key) continue;
      if ((flags & IPC_CREAT) && (flags & IPC_EXCL)) return -EEXIST;
      if (size > s.state.shm_segsz) return -EINVAL;
      return permitted(*thread.credentials(), s, flags | flags << 3 | flags << 6) ? id : -EACCES;
    }
    if (!(flags & IPC_CREAT)) return -ENOENT;
  }
  std::erase_if(all.segments, [](const auto& s) { return s.second.memory.expired(); });
  if (size == 0 || size > kMaxSize) return -EINVAL;
  if (all.segments.size() >= SysvMemory::kMaxSegments) return -ENOSPC;
  if (size > thread.abi().user_end || (flags & SHM_HUGETLB))
    return -ENOMEM;  // as mmap(2): there is no pool of huge pages
  auto memory = thread.process.files.shared_memory(mm::align_up(size, mm::kPageSize), thread.memory());
  if (!memory) return -memory.error();

  Segment segment{.memory = *memory, .kept = *memory};
  auto& perm = segment.state.shm_perm;
  perm.__key = key;
  perm.uid = perm.cuid = thread.credentials()->user.effective;
  perm.gid = perm.cgid = thread.credentials()->group.effective;
  perm.mode = flags & 0777;
  segment.state.shm_segsz = size;
  segment.state.shm_ctime = ::time(nullptr);
  segment.state.shm_cpid = thread.process.pid;
  int id;
  do {
    id = all.next_id;
    all.next_id = id == INT_MAX ? 0 : id + 1;
  } while (all.segments.contains(id));
  all.segments.emplace(id, std::move(segment));
  return id;
}

std::int64_t sys_shmat(Thread& thread, const Args& a) {
  const int flags = a.i32(2);
  mm::Gva address = a[1];
  if (a.i32(0) < 0) return -EINVAL;
  if (address % mm::kPageSize) {
    if (!(flags & SHM_RND)) return -EINVAL;
    address = mm::align_down(address, mm::kPageSize);
  }
  if (!address && (flags & SHM_REMAP)) return -EINVAL;
  const bool write = !(flags & SHM_RDONLY), execute = flags & SHM_EXEC;
  Family& family = thread.process.family;
  LockGuard guard(family.sysv_memory.lock);
  Segment* segment = find(family, a.i32(0));
  if (!segment) return -EINVAL;
  if (!permitted(*thread.credentials(), *segment, kRead | (write ? kWrite : 0) | (execute ? kExecute : 0)))
    return -EACCES;
  if (write && execute && thread.process.deny_wx) return -EACCES;
  auto memory = segment->memory.lock();
  if (!memory) return -EINVAL;  // its last mapping went just now

  mm::MapRequest request{.address = address, .length = memory->size(), .prot = mm::Prot::Read};
  if (write) request.prot = request.prot | mm::Prot::Write;
  if (execute) request.prot = request.prot | mm::Prot::Exec;
  request.fixed = address != 0;
  request.no_replace = request.fixed && !(flags & SHM_REMAP);
  request.shared = true;
  request.backing = std::move(memory);
  if (!write) request.max_prot = mm::Prot::Read | mm::Prot::Exec;
  if (std::int64_t bad = lock_as_asked(thread, request, false)) return bad;
  auto at = thread.memory().map(request);
  if (!at) return at.error() == mm::Error::Exists ? -EINVAL : -errno_of(at.error());
  segment->state.shm_atime = ::time(nullptr);
  segment->state.shm_lpid = thread.process.pid;
  return static_cast<std::int64_t>(*at);
}

std::int64_t sys_shmdt(Thread& thread, const Args& a) {
  SysvMemory& all = thread.process.family.sysv_memory;
  const mm::Gva address = a[0];
  if (address % mm::kPageSize) return -EINVAL;
  LockGuard guard(all.lock);
  // Held until the address-space lock is released: the last reference must not be dropped under that lock.
  std::vector<std::pair<std::shared_ptr<mm::Backing>, Segment*>> segments;
  for (auto& [id, s] : all.segments)
    if (auto memory = s.memory.lock()) segments.emplace_back(std::move(memory), &s);
  // Parts of it may have been unmapped or protected: the regions that are left lie where shmat(2) put them.
  Segment* found = nullptr;
  std::vector<std::pair<mm::Gva, std::uint64_t>> parts;
  thread.memory().visit_regions([&](const mm::Region& r) {
    if (r.start < address || r.start - address != r.offset) return;
    auto segment = std::ranges::find(segments, r.backing, [](const auto& s) -> const auto& { return s.first; });
    if (segment == segments.end()) return;
    if (!found) found = segment->second;
    if (found == segment->second) parts.emplace_back(r.start, r.length());
  });
  if (parts.empty()) return -EINVAL;
  for (auto [start, length] : parts)
    if (auto r = thread.memory().unmap(start, length); !r) return -errno_of(r.error());
  found->state.shm_dtime = ::time(nullptr);
  found->state.shm_lpid = thread.process.pid;
  return 0;
}

// IPC_SET, IPC_RMID, SHM_LOCK, SHM_UNLOCK.
std::int64_t change(Family& family, const Credentials& own, int id, int command, const shmid_ds& wanted)
    RAMET_REQUIRES(family.sysv_memory.lock) {
  Segment* segment = find(family, id);
  if (!segment) return -EINVAL;
  if (!owns(own, *segment) && !own.may(CAP_IPC_OWNER)) return -EPERM;  // Linux: CAP_SYS_ADMIN, which nobody has here
  auto& perm = segment->state.shm_perm;
  switch (command) {
    case SHM_LOCK: perm.mode |= SHM_LOCKED; return 0;  // as mlock(2): checked, and accepted
    case SHM_UNLOCK: perm.mode &= ~SHM_LOCKED; return 0;
    case IPC_SET:
      if (wanted.shm_perm.uid == UINT_MAX || wanted.shm_perm.gid == UINT_MAX) return -EINVAL;
      perm.uid = wanted.shm_perm.uid;
      perm.gid = wanted.shm_perm.gid;
      perm.mode = (perm.mode & ~0777u) | (wanted.shm_perm.mode & 0777);
      segment->state.shm_ctime = ::time(nullptr);
      return 0;
    default:
      perm.__key = IPC_PRIVATE;
      perm.mode |= SHM_DEST;
      segment->kept.reset();
      find(family, id);  // which forgets it if nobody has it mapped
      return 0;
  }
}

std::int64_t sys_shmctl(Thread& thread, const Args& a) {
  Family& family = thread.process.family;
  const int id = a.i32(0), command = a.i32(1);
  if (id < 0) return -EINVAL;
  shmid_ds state{};
  switch (command) {
    case IPC_STAT: {
      LockGuard guard(family.sysv_memory.lock);
      Segment* segment = find(family, id);
      if (!segment) return -EINVAL;
      if (!permitted(*thread.credentials(), *segment, kRead)) return -EACCES;
      state = segment->state;
      if (auto memory = segment->memory.lock()) state.shm_nattch = attached(family, *memory);
      break;
    }
    case IPC_SET: {
      auto wanted = read_user<shmid_ds>(thread.memory(), a[2]);
      if (!wanted) return -wanted.error();
      state = *wanted;
      [[fallthrough]];
    }
    case IPC_RMID:
    case SHM_LOCK:
    case SHM_UNLOCK: {
      LockGuard guard(family.sysv_memory.lock);
      return change(family, *thread.credentials(), id, command, state);
    }
    default: return -EINVAL;
  }
  return put_user(thread.memory(), a[2], state);
}

}  // namespace

std::string list_segments(Family& family) {
  std::string text =
      "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime"
      "      ctime                   rss                  swap\n";
  LockGuard guard(family.sysv_memory.lock);
  for (const auto& [id, segment] : family.sysv_memory.segments) {
    const auto memory = segment.memory.lock();
    if (!memory) continue;
    const shmid_ds& s = segment.state;
    text += fmt::format("{:10} {:10}  {:4o} {:21} {:5} {:5}  {:5} {:5} {:5} {:5} {:5} {:10} {:10} {:10} {:21} {:21}\n",
                        s.shm_perm.__key, id, s.shm_perm.mode, s.shm_segsz, s.shm_cpid, s.shm_lpid,
                        attached(family, *memory), s.shm_perm.uid, s.shm_perm.gid, s.shm_perm.cuid, s.shm_perm.cgid,
                        s.shm_atime, s.shm_dtime, s.shm_ctime, 0, 0);
  }
  return text;
}

std::span<const Definition> sysv_memory_calls() {
  static constexpr Definition kCalls[] = {
      {Call::shmget, sys_shmget},
      {Call::shmat, sys_shmat},
      {Call::shmdt, sys_shmdt},
      {Call::shmctl, sys_shmctl},
  };
  return kCalls;
}

}  // namespace ramet::vmm
