// What becomes of an entry: descriptors and memory of the guest turned into the host's. Entries come from a hostile
// program; fields that an operation has no use for are not passed on.
#include "vmm/linux/uring/translate.hpp"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "vmm/linux/files/state.hpp"
#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/thread.hpp"

namespace ramet::vmm {
namespace {

constexpr unsigned kServedFlags = IOSQE_FIXED_FILE | IOSQE_IO_DRAIN | IOSQE_IO_LINK | IOSQE_IO_HARDLINK | IOSQE_ASYNC;
constexpr int kReadWriteFlags = RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_NOWAIT | RWF_APPEND;  // as files/io.cpp
// One entry gives one completion: multishot timeouts are not served, nor flags of later kernels.
constexpr unsigned kTimeoutFlags = IORING_TIMEOUT_ABS | IORING_TIMEOUT_BOOTTIME | IORING_TIMEOUT_REALTIME |
                                   IORING_TIMEOUT_ETIME_SUCCESS;
constexpr std::uint8_t kNoOperation = 0xff;  // an opcode that no kernel has
constexpr std::uint64_t kNobody = ~0ull;     // a user_data that no entry of the host's ring has
// What an entry costs the host in addition if it waits in a thread of the host's kernel: a stack and a task.
constexpr std::uint64_t kWorkerBytes = 32 * 1024;

std::unexpected<UringRefusal> refuse(int error) { return std::unexpected(UringRefusal{error, false}); }
std::unexpected<UringRefusal> malformed(int error = EINVAL) { return std::unexpected(UringRefusal{error, true}); }

bool writes(std::uint8_t opcode) {
  return opcode == IORING_OP_WRITE || opcode == IORING_OP_WRITEV || opcode == IORING_OP_WRITE_FIXED;
}

}  // namespace

bool uring_serves(unsigned opcode) {
  switch (opcode) {
    case IORING_OP_NOP:
    case IORING_OP_READ:
    case IORING_OP_WRITE:
    case IORING_OP_READV:
    case IORING_OP_WRITEV:
    case IORING_OP_READ_FIXED:
    case IORING_OP_WRITE_FIXED:
    case IORING_OP_FSYNC:
    case IORING_OP_POLL_ADD:
    case IORING_OP_POLL_REMOVE:
    case IORING_OP_TIMEOUT:
    case IORING_OP_TIMEOUT_REMOVE:
    case IORING_OP_LINK_TIMEOUT:
    case IORING_OP_ASYNC_CANCEL: return true;
    default: return false;
  }
}

UringKind uring_kind(std::uint8_t opcode) {
  switch (opcode) {
    case IORING_OP_POLL_ADD: return kPoll;
    case IORING_OP_TIMEOUT: return kTimeout;
    case IORING_OP_LINK_TIMEOUT: return kLinkTimeout;
    default: return kOther;
  }
}

UringRequest::~UringRequest() {
  if (!appended) return;
  LockGuard guard(file->charge->lock);
  file->charge->in_flight -= appended;
}

void UringTranslation::refused(const UringRefusal& refusal, io_uring_sqe& to) {
  const std::uint8_t flags = to.flags;
  to = {};
  to.flags = flags;
  to.fd = -1;
  to.opcode = refusal.at_once ? kNoOperation : static_cast<std::uint8_t>(IORING_OP_FSYNC);
}

UringTranslation::Result UringTranslation::run(io_uring_sqe& to) {
  to = {};
  to.flags = from_.flags & kServedFlags & ~IOSQE_FIXED_FILE;
  to.fd = -1;
  request_.opcode = to.opcode = from_.opcode;
  if (!uring_serves(from_.opcode) || (from_.flags & ~kServedFlags)) return malformed();
  if (from_.ioprio || from_.personality) return malformed();
  if ((from_.flags & IOSQE_ASYNC) && !request_.charge.grow(kWorkerBytes)) return refuse(ENOMEM);
  switch (from_.opcode) {
    case IORING_OP_NOP: return from_.rw_flags ? malformed() : Result{};
    case IORING_OP_READ:
    case IORING_OP_WRITE:
    case IORING_OP_READV:
    case IORING_OP_WRITEV: return transfer(to, writes(from_.opcode));
    case IORING_OP_READ_FIXED:
    case IORING_OP_WRITE_FIXED: return transfer_fixed(to, writes(from_.opcode));
    case IORING_OP_FSYNC: return fsync(to);
    case IORING_OP_POLL_ADD: return poll_add(to);
    case IORING_OP_TIMEOUT:
    case IORING_OP_LINK_TIMEOUT:
      if (from_.len != 1 || from_.buf_index || from_.splice_fd_in) return malformed();
      if (from_.timeout_flags & ~kTimeoutFlags) return malformed();
      to.len = 1;
      to.off = from_.off;
      to.timeout_flags = from_.timeout_flags;
      timed_address = true;
      return timeout(from_.addr);
    case IORING_OP_ASYNC_CANCEL: return cancel(to);
    default: return remove(to);  // POLL_REMOVE, TIMEOUT_REMOVE
  }
}

// --- reads and writes ---

// Takes the entry's file. A ring is refused with errno `of_ring`: a ring that held a ring could hold itself, or be
// destroyed by its own thread, which its destructor joins.
UringTranslation::Result UringTranslation::take_file(int of_ring) {
  auto file = ring_.file_of(thread_, from_);
  if (!file) return refuse(EBADF);
  if (file->kind == OpenFile::Kind::Uring) return refuse(of_ring);
  request_.file = std::move(file);
  return {};
}

// As file_for() in files/io.cpp.
UringTranslation::Result UringTranslation::transfer_file(bool write) {
  if (auto taken = take_file(EINVAL); !taken) return taken;
  const OpenFile& file = *request_.file;
  if (file.flags & O_PATH) return refuse(EBADF);
  if ((file.flags & O_ACCMODE) == (write ? O_RDONLY : O_WRONLY)) return refuse(EBADF);
  if (file.kind == OpenFile::Kind::Directory) return refuse(write ? EBADF : EISDIR);
  if (from_.rw_flags & ~kReadWriteFlags) return refuse(EOPNOTSUPP);
  request_.transfers = true;
  return {};
}

// Cuts the write to what RLIMIT_FSIZE leaves of it now.
UringTranslation::Result UringTranslation::limit(bool write, std::uint64_t& bytes) {
  if (!write) return {};
  auto room = room_to_write(thread_, *request_.file, static_cast<std::int64_t>(from_.off), from_.rw_flags, bytes);
  if (!room) return refuse(room.error());
  if (*room < bytes) cut_to(request_.iov, bytes = *room);
  return {};
}

// Charges a memory file's growth before the write. With an offset in the entry the new end is known. Without, the write
// begins at the file's own offset or its end when its turn comes, and writes in flight (`in_flight` bytes) may move
// both.
UringTranslation::Result UringTranslation::charge(bool write, std::uint64_t bytes) {
  if (!write || bytes == 0 || !request_.file->charge) return {};
  MemoryCharge& charge = *request_.file->charge;
  const int host = request_.file->host.get();
  LockGuard guard(charge.lock);
  struct stat st;
  const int status = ::fcntl(host, F_GETFL);
  const off_t at = ::lseek(host, 0, SEEK_CUR);
  if (::fstat(host, &st) != 0 || status < 0 || at < 0) return refuse(errno);
  const auto size = static_cast<std::uint64_t>(st.st_size), offset = static_cast<std::uint64_t>(from_.off);
  if (offset == ~0ull || (status & O_APPEND) || (from_.rw_flags & RWF_APPEND)) {
    const std::uint64_t from = std::max(size, static_cast<std::uint64_t>(at));
    if (!charge.grow(from + charge.in_flight + bytes)) return refuse(ENOSPC);
    charge.in_flight += bytes;
    request_.appended = bytes;
  } else if (offset > LLONG_MAX - bytes || !charge.grow(std::max(size, offset + bytes))) {
    return refuse(offset > LLONG_MAX - bytes ? EINVAL : ENOSPC);
  }
  return {};
}

// Pins one buffer and appends its pieces. A buffer that is only partly there gives the part, as with read(2), and so
// does one of more pieces than the host takes.
UringTranslation::Result UringTranslation::pin(mm::Gva at, std::uint64_t length, mm::Access access,
                                               std::uint64_t& total) {
  length = std::min(length, UserBuffers::kMaxBytes - total);
  const std::size_t most = IOV_MAX - std::min<std::size_t>(request_.iov.size(), IOV_MAX);
  if (length == 0 || most == 0) return {};
  auto pin = thread_.memory().pin(at, length, access, mm::AddressSpace::PinTerm::Short, most);
  if (!pin) {
    std::vector<mm::HostRange> there;
    auto part = thread_.memory().gather(at, length, access, there);
    if (!part) return total ? Result{} : refuse(EFAULT);
    pin = thread_.memory().pin(at, *part, access, mm::AddressSpace::PinTerm::Short, most);
    if (!pin) return refuse(pin.error() == mm::Error::NoMemory ? ENOMEM : EFAULT);
  }
  for (const mm::HostRange& r : pin->ranges()) {
    if (!request_.charge.room_for_one(request_.iov)) return refuse(ENOMEM);
    request_.iov.push_back({r.bytes.address(), r.bytes.size()});
  }
  if (!request_.charge.room_for_one(request_.pins)) return refuse(ENOMEM);
  total += pin->bytes();
  request_.pins.push_back(std::move(*pin));
  return {};
}

// Sets `to` to transfer request_.iov, by one address or as a vector.
void UringTranslation::aim(io_uring_sqe& to, bool write) {
  to.fd = request_.file->host.get();
  to.off = from_.off;
  to.rw_flags = from_.rw_flags;
  auto& iov = request_.iov;
  if (iov.size() <= 1) {
    to.opcode = write ? IORING_OP_WRITE : IORING_OP_READ;
    to.addr = iov.empty() ? 0 : reinterpret_cast<std::uint64_t>(iov[0].iov_base);
    to.len = iov.empty() ? 0 : static_cast<std::uint32_t>(iov[0].iov_len);
  } else {
    // The rest makes it a short transfer, as read(2) may be.
    to.opcode = write ? IORING_OP_WRITEV : IORING_OP_READV;
    to.addr = reinterpret_cast<std::uint64_t>(iov.data());
    to.len = static_cast<std::uint32_t>(std::min<std::size_t>(iov.size(), IOV_MAX));
  }
}

UringTranslation::Result UringTranslation::transfer(io_uring_sqe& to, bool write) {
  if (auto file = transfer_file(write); !file) return file;
  const mm::Access access = write ? mm::Access::Read : mm::Access::Write;
  std::uint64_t bytes = 0;
  if (from_.opcode == IORING_OP_READ || from_.opcode == IORING_OP_WRITE) {
    if (auto pinned = pin(from_.addr, from_.len, access, bytes); !pinned) return pinned;
  } else {
    auto segments = read_user_array<GuestIovec>(thread_.memory(), from_.addr, from_.len, IOV_MAX);
    if (!segments) return malformed(segments.error());
    for (const GuestIovec& s : *segments)
      if (static_cast<std::int64_t>(s.length) < 0) return malformed();
    for (const GuestIovec& s : *segments) {
      const std::uint64_t wanted = bytes + std::min(s.length, UserBuffers::kMaxBytes - bytes);
      if (auto pinned = pin(s.base, s.length, access, bytes); !pinned) return pinned;
      if (bytes < wanted) break;
    }
  }
  if (auto within = limit(write, bytes); !within) return within;
  if (auto charged = charge(write, bytes); !charged) return charged;
  aim(to, write);
  return {};
}

UringTranslation::Result UringTranslation::transfer_fixed(io_uring_sqe& to, bool write) {
  if (auto file = transfer_file(write); !file) return file;
  if (!ring_.buffers_) return refuse(EFAULT);
  auto slice = ring_.buffers_->slice(from_.buf_index, from_.addr, from_.len);
  if (!slice) return refuse(slice.error());
  if (!request_.charge.grow(slice->pieces.capacity() * sizeof(iovec))) return refuse(ENOMEM);
  request_.buffers = ring_.buffers_;
  request_.iov = std::move(slice->pieces);
  std::uint64_t bytes = from_.len;
  if (auto within = limit(write, bytes); !within) return within;
  if (auto charged = charge(write, bytes); !charged) return charged;
  aim(to, write);
  auto& counters = ring_.devices_->counters();
  if (slice->host_index) {
    to.opcode = write ? IORING_OP_WRITE_FIXED : IORING_OP_READ_FIXED;
    to.buf_index = *slice->host_index;
    counters.fixed.fetch_add(1, std::memory_order_relaxed);
  } else {
    counters.fixed_plain.fetch_add(1, std::memory_order_relaxed);
  }
  return {};
}

// --- the others ---

UringTranslation::Result UringTranslation::fsync(io_uring_sqe& to) {
  if (from_.addr || from_.buf_index || from_.splice_fd_in) return malformed();
  if (from_.fsync_flags & ~IORING_FSYNC_DATASYNC) return malformed();
  if (auto taken = take_file(EINVAL); !taken) return taken;
  if (request_.file->flags & O_PATH) return refuse(EBADF);
  if (request_.file->synthetic || request_.file->kind == OpenFile::Kind::Synthetic) return refuse(EINVAL);
  to.fd = request_.file->host.get();
  to.off = from_.off;
  to.len = from_.len;
  to.fsync_flags = from_.fsync_flags;
  return {};
}

UringTranslation::Result UringTranslation::poll_add(io_uring_sqe& to) {
  // A multishot poll would fill the guest's queue without an entry for each completion.
  if (from_.len || from_.off || from_.addr || from_.buf_index) return malformed();
  if (auto taken = take_file(EOPNOTSUPP); !taken) return taken;
  if (request_.file->flags & O_PATH) return refuse(EBADF);
  to.fd = request_.file->host.get();
  to.poll32_events = from_.poll32_events;
  return {};
}

UringTranslation::Result UringTranslation::timeout(mm::Gva at) {
  auto time = read_user<__kernel_timespec>(thread_.memory(), at);
  if (!time) return malformed(EFAULT);
  request_.time = *time;
  const unsigned flags = from_.timeout_flags;
  if (flags & IORING_TIMEOUT_ABS) {
    const clockid_t clock = flags & IORING_TIMEOUT_REALTIME   ? CLOCK_REALTIME
                            : flags & IORING_TIMEOUT_BOOTTIME ? CLOCK_BOOTTIME
                                                              : CLOCK_MONOTONIC;
    const timespec on_host = thread_.process.family.clocks.host_timer(clock, {time->tv_sec, time->tv_nsec});
    request_.time = {on_host.tv_sec, on_host.tv_nsec};
  }
  return {};
}

// Names the entry by the host's user_data instead of the guest's; kNobody, which the host does not find, if there is
// none.
UringTranslation::Result UringTranslation::remove(io_uring_sqe& to) {
  if (from_.buf_index || from_.splice_fd_in) return malformed();
  UringKind kind = kPoll;
  if (from_.opcode == IORING_OP_POLL_REMOVE) {
    if (from_.len || from_.off || from_.poll32_events) return malformed();  // updates of polls are not served
  } else {
    const unsigned flags = from_.timeout_flags;
    if (from_.len || (flags && !(flags & IORING_TIMEOUT_UPDATE_MASK))) return malformed();
    if (flags & ~(IORING_TIMEOUT_UPDATE_MASK | kTimeoutFlags)) return malformed();
    kind = flags & IORING_LINK_TIMEOUT_UPDATE ? kLinkTimeout : kTimeout;
    to.timeout_flags = flags;
    if (flags) {
      timed_address2 = true;
      if (auto time = timeout(from_.off); !time) return time;
    }
  }
  to.addr = ring_.find(from_.addr, kind).value_or(kNobody);
  return {};
}

UringTranslation::Result UringTranslation::cancel(io_uring_sqe& to) {
  if (from_.off || from_.splice_fd_in) return malformed();
  switch (from_.cancel_flags) {
    case 0: {
      std::optional<std::uint64_t> id;
      for (auto kind : {kOther, kPoll, kTimeout, kLinkTimeout})
        if (!id) id = ring_.find(from_.addr, kind);
      to.addr = id.value_or(kNobody);
      return {};
    }
    case IORING_ASYNC_CANCEL_ANY:
    case IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL: to.cancel_flags = from_.cancel_flags; return {};
    case IORING_ASYNC_CANCEL_FD:
    case IORING_ASYNC_CANCEL_FD | IORING_ASYNC_CANCEL_ALL:
      if (auto taken = take_file(ENOENT); !taken) return taken;  // nothing is ever in flight for a ring
      to.fd = request_.file->host.get();
      to.cancel_flags = from_.cancel_flags;
      return {};
    default: return malformed();  // ALL of one user_data: in the host's ring these have different ones
  }
}

}  // namespace ramet::vmm
