// vmsplice: pages of the guest into a pipe without a copy, and back with one.
//
// What goes into a pipe are the host's pages under the guest's frames. The host's kernel keeps these pages until they
// are read from the pipe, but the VMM reuses frames: one that the guest unmaps is free for its next page, whose
// contents the pipe's reader would find. So the frames stay pinned until they must have been read. Pages that move on
// to another pipe (splice, tee) are not followed: their reader may find later contents of the writer's memory. So may a
// reader after the writer's end, which frees its frames.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <map>

#include "guest-mm/pin.hpp"
#include "guest-mm/thread_annotations.hpp"
#include "vmm/linux/files/state.hpp"
#include "vmm/linux/processes/process.hpp"
#include "vmm/linux/processes/thread.hpp"

namespace ramet::vmm {

// The pins of the pages that a process has spliced and that may not have been read yet, by the pipe's inode.
class SplicedPages : public PinHolder {
 public:
  void add(int host, ino_t pipe, mm::Pin pin, std::uint64_t bytes) RAMET_EXCLUDES(lock_) {
    LockGuard guard(lock_);
    for (auto it = pipes_.begin(); it != pipes_.end();) it = trim(it->second) ? pipes_.erase(it) : std::next(it);
    Pipe& p = pipes_[pipe];
    // O_PATH counts neither as a reader nor as a writer, so the pipe's other end still sees it closed.
    if (!p.path) p.path = HostFd(::open(fd_path(host).c_str(), O_PATH | O_CLOEXEC));
    p.pieces.push_back({std::move(pin), bytes});
    p.bytes += bytes;
  }
  void let_go() override RAMET_EXCLUDES(lock_) {
    LockGuard guard(lock_);
    pipes_.clear();
  }

 private:
  struct Piece {
    mm::Pin pin;
    std::uint64_t bytes;
  };
  struct Pipe {
    HostFd path;
    std::deque<Piece> pieces;  // oldest first
    std::uint64_t bytes = 0;  // of all of them
  };
  // Drops the pins of bytes that must have been read: a pipe is read in order, and each piece takes a slot of its own.
  // True: no pins are left.
  static bool trim(Pipe& pipe) {
    int left = 0, size = 0;
    HostFd reader(::open(fd_path(pipe.path.get()).c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    if (reader && ::ioctl(reader.get(), FIONREAD, &left) == 0) size = std::max(::fcntl(reader.get(), F_GETPIPE_SZ), 0);
    const std::size_t places = static_cast<std::size_t>(size) / mm::kPageSize;
    auto& pieces = pipe.pieces;
    while (!pieces.empty() &&
           (pieces.size() > places || pipe.bytes - pieces.front().bytes >= static_cast<std::uint64_t>(left))) {
      pipe.bytes -= pieces.front().bytes;
      pieces.pop_front();
    }
    return pieces.empty();
  }

  Mutex lock_;  // order: before the address space's
  std::map<ino_t, Pipe> pipes_ RAMET_GUARDED_BY(lock_);
};

namespace {

SplicedPages& spliced_pages(Thread& thread) {
  auto& state = state_of(thread);
  LockGuard guard(state.lock);
  if (!state.spliced_pages) {
    state.spliced_pages = std::make_shared<SplicedPages>();
    state.devices->add(state.spliced_pages);
  }
  return *state.spliced_pages;
}

// One call of the host for each buffer, until one is short; the guest repeats the rest.
std::int64_t to_pipe(Thread& thread, const OpenFile& file, ino_t pipe, mm::Gva segments, std::uint64_t count,
                     unsigned flags) {
  auto given = read_user_array<GuestIovec>(thread.memory(), segments, count, UIO_MAXIOV);
  if (!given) return -given.error();
  for (const GuestIovec& s : *given)
    if (static_cast<std::int64_t>(s.length) < 0) return -EINVAL;
  std::int64_t done = 0;
  for (const GuestIovec& s : *given) {
    // A pipe takes its capacity at most; there is no use in pinning more than the largest at a time.
    constexpr std::uint64_t kMost = 1 << 20;
    if (s.length == 0) continue;
    const std::uint64_t length = std::min(s.length, kMost);
    auto pin = thread.memory().pin(s.base, length, mm::Access::Read, mm::AddressSpace::PinTerm::Short);
    if (!pin) return done ? done : -EFAULT;
    std::vector<iovec> iov;
    for (const mm::HostRange& r : pin->ranges()) iov.push_back({r.bytes.address(), r.bytes.size()});
    const std::size_t pieces = std::min<std::size_t>(iov.size(), UIO_MAXIOV);
    const std::int64_t n = thread.blocking(SYS_vmsplice, static_cast<std::uint64_t>(file.host.get()),
                                           reinterpret_cast<std::uint64_t>(iov.data()), pieces,
                                           (flags & ~unsigned{SPLICE_F_GIFT}) |
                                               (done ? unsigned{SPLICE_F_NONBLOCK} : 0));
    if (n < 0) return done ? done : broken_pipe(thread, restartable(n));
    if (n > 0) spliced_pages(thread).add(file.host.get(), pipe, std::move(*pin), static_cast<std::uint64_t>(n));
    done += n;
    if (static_cast<std::uint64_t>(n) < s.length) break;
  }
  return done;
}

std::int64_t sys_vmsplice(Thread& thread, const Args& a) {
  const unsigned flags = a.u32(3);
  if (flags & ~unsigned{SPLICE_F_MOVE | SPLICE_F_NONBLOCK | SPLICE_F_MORE | SPLICE_F_GIFT}) return -EINVAL;
  auto file = thread.process.files.get(a.i32(0));
  if (!file || (file->flags & O_PATH)) return -EBADF;
  struct stat st;
  if (::fstat(file->host.get(), &st) != 0) return -errno;
  if (!S_ISFIFO(st.st_mode)) return -EBADF;
  if ((file->flags & O_ACCMODE) != O_RDONLY) return to_pipe(thread, *file, st.st_ino, a[1], a[2], flags);
  auto buffers = UserBuffers::vector(thread.memory(), a[1], a[2], mm::Access::Write);
  if (!buffers) return -buffers.error();
  const auto iov = buffers->iov().first(std::min<std::size_t>(buffers->iov().size(), UIO_MAXIOV));
  return broken_pipe(thread,
                     restartable(thread.blocking(SYS_vmsplice, static_cast<std::uint64_t>(file->host.get()),
                                                 reinterpret_cast<std::uint64_t>(iov.data()), iov.size(), flags)));
}

}  // namespace

std::span<const Definition> vmsplice_calls() {
  static constexpr Definition kCalls[] = {{Call::vmsplice, sys_vmsplice}};
  return kCalls;
}

}  // namespace ramet::vmm
