// Reading, writing and seeking.
//
// The guest's buffers go to the host as iovecs, at most IOV_MAX at a time. A short transfer on the host ends the call,
// as on Linux.
#include <signal.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>

#include "vmm/linux/checked.hpp"
#include "vmm/linux/files/state.hpp"
#include "vmm/linux/processes/process.hpp"
#include "vmm/linux/processes/save_points.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/signals_blocked.hpp"

namespace ramet::vmm {

std::int64_t broken_pipe(Thread& thread, std::int64_t result) {
  if (result != -EPIPE) return result;
  discard_broken_pipe();
  thread.raise(SIGPIPE);
  return result;
}

namespace {

struct Transfer {
  bool write;
  std::int64_t offset = kCurrentOffset;
  int flags = 0;              // RWF_*
};

// One host call for up to IOV_MAX pieces.
std::int64_t transfer_once(Thread& thread, const OpenFile& file, std::span<const iovec> iov, const Transfer& how,
                           std::uint64_t done) {
  std::int64_t offset = kCurrentOffset;
  if (how.offset != kCurrentOffset) {
    const auto at = checked_sum(how.offset, static_cast<std::int64_t>(done));
    if (!at) return -EINVAL;
    offset = *at;
  }
  long number = how.write ? SYS_pwritev2 : SYS_preadv2;
  if (may_block(file)) {
    // preadv2 at -1 is readv, on pipes and sockets too.
    return thread.blocking(number, static_cast<std::uint64_t>(file.host.get()),
                           reinterpret_cast<std::uint64_t>(iov.data()), iov.size(), static_cast<std::uint64_t>(offset),
                           offset == kCurrentOffset ? ~0ull : 0, static_cast<std::uint64_t>(how.flags));
  }
  return result_of(::syscall(number, file.host.get(), iov.data(), iov.size(), offset,
                             offset == kCurrentOffset ? ~0ull : 0, how.flags));
}

std::int64_t transfer(Thread& thread, const OpenFile& file, const UserBuffers& buffers, const Transfer& how) {
  std::span<const iovec> iov = buffers.iov();
  std::uint64_t bytes = buffers.bytes();
  if (file.operations) {
    const auto done = how.write ? file.operations->write(thread, file, buffers, how.offset)
                                : file.operations->read(thread, file, buffers, how.offset);
    if (done) return *done;
  }
  std::unique_lock<std::mutex> charged;
  if (file.charge) charged = std::unique_lock(file.charge->lock);
  std::vector<iovec> within;  // what RLIMIT_FSIZE leaves of them
  if (how.write) {
    auto room = room_to_write(thread, file, how.offset, how.flags, bytes);
    if (!room) return -room.error();
    if (*room < bytes) {
      within.assign(iov.begin(), iov.end());
      cut_to(within, bytes = *room);
      iov = within;
    }
    if (file.charge && bytes) {
      auto start = write_start(file, how.offset, how.flags);
      if (!start) return -start.error();
      if (!file.charge->grow(std::max(start->at + file.charge->in_flight + bytes, start->size))) return -ENOSPC;
    }
  }
  std::uint64_t done = 0;
  do {
    auto piece = iov.first(std::min<std::size_t>(iov.size(), IOV_MAX));
    std::uint64_t wanted = 0;
    for (const iovec& v : piece) wanted += v.iov_len;
    std::int64_t n = transfer_once(thread, file, piece, how, done);
    if (n < 0) {
      if (done) break;
      if (n == -EINTR) return kRestartSys;
      return how.write ? broken_pipe(thread, no_room(file, n)) : n;
    }
    done += static_cast<std::uint64_t>(n);
    if (static_cast<std::uint64_t>(n) < wanted) break;
    // What has come from a pipe or a terminal is given before waiting for more.
    if (!how.write && may_block(file)) break;
    iov = iov.subspan(piece.size());
  } while (!iov.empty());
  return static_cast<std::int64_t>(done);
}

std::int64_t counted_transfer(Thread& thread, const OpenFile& file, const UserBuffers& buffers, const Transfer& how) {
  const std::int64_t result = transfer(thread, file, buffers, how);
  auto& all = thread.process.transferred;
  (how.write ? all.writes : all.reads).fetch_add(1, std::memory_order_relaxed);
  if (result > 0)
    (how.write ? all.written_bytes : all.read_bytes)
        .fetch_add(static_cast<std::uint64_t>(result), std::memory_order_relaxed);
  return result;
}

OrErrno<std::shared_ptr<OpenFile>> file_for(Thread& thread, int fd, bool write) {
  auto file = thread.process.files.get(fd);
  if (!file || (file->flags & O_PATH)) return err(EBADF);
  if ((file->flags & O_ACCMODE) == (write ? O_RDONLY : O_WRONLY)) return err(EBADF);
  if (file->kind == OpenFile::Kind::Directory) return err(write ? EBADF : EISDIR);
  if (!write && thread.process.saving && thread.process.saving->at_read(thread, *file))
    return err(static_cast<int>(-kRestartNoIntr));
  return file;
}

std::int64_t one_buffer(Thread& thread, const Args& a, Transfer how) {
  auto file = file_for(thread, a.i32(0), how.write);
  if (!file) return -file.error();
  if (a.i64(2) < 0) return -EINVAL;
  auto buffers = UserBuffers::one(thread.memory(), a[1], a[2], how.write ? mm::Access::Read : mm::Access::Write);
  if (!buffers) return -buffers.error();
  return counted_transfer(thread, **file, *buffers, how);
}

std::int64_t many_buffers(Thread& thread, const Args& a, Transfer how) {
  auto file = file_for(thread, a.i32(0), how.write);
  if (!file) return -file.error();
  auto buffers = UserBuffers::vector(thread.memory(), a[1], a[2], how.write ? mm::Access::Read : mm::Access::Write);
  if (!buffers) return -buffers.error();
  return counted_transfer(thread, **file, *buffers, how);
}

std::int64_t sys_read(Thread& thread, const Args& a) { return one_buffer(thread, a, {.write = false}); }
std::int64_t sys_write(Thread& thread, const Args& a) { return one_buffer(thread, a, {.write = true}); }
std::int64_t sys_readv(Thread& thread, const Args& a) { return many_buffers(thread, a, {.write = false}); }
std::int64_t sys_writev(Thread& thread, const Args& a) { return many_buffers(thread, a, {.write = true}); }

// The calls with an offset. A negative one is refused here: the host would take -1 for the file's own offset.
std::int64_t at_offset(Thread& thread, const Args& a, bool vector, bool write, bool flags_given) {
  Transfer how{.write = write, .offset = a.i64(3)};
  if (flags_given) {
    constexpr int kKnown = RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_NOWAIT | RWF_APPEND;
    how.flags = a.i32(5);
    if (how.flags & ~kKnown) return -EOPNOTSUPP;
    if (how.offset == kCurrentOffset) return many_buffers(thread, a, how);
  }
  if (how.offset < 0) return -EINVAL;
  return vector ? many_buffers(thread, a, how) : one_buffer(thread, a, how);
}

std::int64_t sys_pread64(Thread& thread, const Args& a) { return at_offset(thread, a, false, false, false); }
std::int64_t sys_pwrite64(Thread& thread, const Args& a) { return at_offset(thread, a, false, true, false); }
std::int64_t sys_preadv(Thread& thread, const Args& a) { return at_offset(thread, a, true, false, false); }
std::int64_t sys_pwritev(Thread& thread, const Args& a) { return at_offset(thread, a, true, true, false); }
std::int64_t sys_preadv2(Thread& thread, const Args& a) { return at_offset(thread, a, true, false, true); }
std::int64_t sys_pwritev2(Thread& thread, const Args& a) { return at_offset(thread, a, true, true, true); }

std::int64_t sys_lseek(Thread& thread, const Args& a) {
  auto file = thread.process.files.get(a.i32(0));
  if (!file || (file->flags & O_PATH)) return -EBADF;
  std::int64_t offset = a.i64(1);
  int whence = a.i32(2);
  std::unique_lock<std::mutex> charged;
  if (file->charge) charged = std::unique_lock(file->charge->lock);
  if (file->kind != OpenFile::Kind::Directory) return result_of(::lseek(file->host.get(), offset, whence));
  // Positions past the host's own entries are ours, see files/directory.cpp.
  LockGuard guard(file->listing->lock);
  if (whence == SEEK_CUR && file->listing->position) {
    whence = SEEK_SET;
    const auto from = checked_sum(offset, static_cast<std::int64_t>(kExtraEntries + file->listing->position));
    if (!from) return -EINVAL;
    offset = *from;
  }
  if (whence == SEEK_SET && offset >= 0 && static_cast<std::uint64_t>(offset) > kExtraEntries &&
      static_cast<std::uint64_t>(offset) - kExtraEntries <= kMaxExtra) {
    file->listing->position = static_cast<std::uint64_t>(offset) - kExtraEntries;
    return offset;
  }
  if (file->synthetic) {
    if (offset != 0 || (whence != SEEK_SET && whence != SEEK_CUR)) return -EINVAL;
    file->listing->position = 0;
    return 0;
  }
  std::int64_t result = result_of(::lseek(file->host.get(), offset, whence));
  if (result >= 0) file->listing->position = 0;
  return result;
}

}  // namespace

std::span<const Definition> file_calls() {
  static const std::vector<Definition> all = [] {
    std::vector<Definition> v{
        {Call::read, sys_read},       {Call::write, sys_write},       {Call::lseek, sys_lseek},
        {Call::pread64, sys_pread64}, {Call::pwrite64, sys_pwrite64}, {Call::readv, sys_readv},
        {Call::writev, sys_writev},   {Call::preadv, sys_preadv},     {Call::pwritev, sys_pwritev},
        {Call::preadv2, sys_preadv2}, {Call::pwritev2, sys_pwritev2},
    };
    for (auto part : {open_calls(), descriptor_calls(), control_calls(), copy_calls(), vmsplice_calls(), memfd_calls()})
      v.insert(v.end(), part.begin(), part.end());
    return v;
  }();
  return all;
}

}  // namespace ramet::vmm
