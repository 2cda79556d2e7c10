// io_uring_setup, io_uring_enter and io_uring_register: arguments checked as Linux checks them.
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>

#include "vmm/linux/files/state.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/time/guest_time.hpp"
#include "vmm/linux/uring/translate.hpp"
#include "vmm/linux/uring/uring.hpp"

namespace ramet::vmm {
namespace {

OrErrno<std::shared_ptr<OpenFile>> ring_file(Thread& thread, int fd, bool registered = false) {
  const auto place = static_cast<unsigned>(fd);
  if (registered && place >= thread.rings.size()) return err(EINVAL);
  auto file = registered ? thread.rings[place] : thread.process.files.get(fd);
  if (!file) return err(EBADF);
  if (file->kind != OpenFile::Kind::Uring) return err(EOPNOTSUPP);
  // Inherited over a fork: its entries would mean the memory of another process.
  if (!ring_of(*file).belongs_to(thread.memory())) return err(ENXIO);
  return file;
}

std::int64_t sys_io_uring_setup(Thread& thread, const Args& a) {
  auto params = read_user<io_uring_params>(thread.memory(), a[1]);
  if (!params) return -params.error();
  for (std::uint32_t word : params->resv)
    if (word) return -EINVAL;
  auto ring = Uring::create(thread, a.u32(0), *params);
  if (!ring) return -ring.error();
  HostFd host = (*ring)->pollable();
  if (!host) return -errno;
  if (!write_user(thread.memory(), a[1], *params)) return -EFAULT;
  auto file = make_file(OpenFile::Kind::Uring, std::move(host), O_RDWR);
  file->operations = std::move(*ring);
  auto fd = thread.process.files.install(std::move(file), true);
  return fd ? *fd : -fd.error();
}

// The two forms of the last arguments: a signal mask, or a structure with a mask and a time-out.
struct WaitArguments {
  mm::Gva mask = 0;
  std::uint64_t mask_size = 0;
  std::optional<timespec> deadline;
};

OrErrno<WaitArguments> wait_arguments(Thread& thread, unsigned flags, mm::Gva at, std::uint64_t size) {
  if (!(flags & IORING_ENTER_EXT_ARG)) return WaitArguments{at, size, {}};
  if (size != sizeof(io_uring_getevents_arg)) return err(EINVAL);
  auto given = read_user<io_uring_getevents_arg>(thread.memory(), at);
  if (!given) return err(given.error());
  if (given->pad) return err(EINVAL);
  WaitArguments result{given->sigmask, given->sigmask_sz, {}};
  if (given->ts) {
    auto time = read_user<__kernel_timespec>(thread.memory(), given->ts);
    if (!time) return err(time.error());
    // As in Linux: nanoseconds carry into seconds, and negative values count as 0.
    const std::int64_t seconds = std::max<std::int64_t>(time->tv_sec, 0),
                       nanos = std::max<std::int64_t>(time->tv_nsec, 0);
    const timespec wait = sum({seconds, 0}, {nanos / kNanosPerSecond, nanos % kNanosPerSecond});
    result.deadline = deadline_after(CLOCK_MONOTONIC, wait);
  }
  return result;
}

std::int64_t sys_io_uring_enter(Thread& thread, const Args& a) {
  constexpr unsigned kServed = IORING_ENTER_GETEVENTS | IORING_ENTER_SQ_WAKEUP | IORING_ENTER_SQ_WAIT |
                               IORING_ENTER_EXT_ARG | IORING_ENTER_REGISTERED_RING;
  const unsigned to_submit = a.u32(1), flags = a.u32(3);
  if (flags & ~kServed) return -EINVAL;
  auto file = ring_file(thread, a.i32(0), flags & IORING_ENTER_REGISTERED_RING);
  if (!file) return -file.error();
  Uring& ring = ring_of(**file);
  if (ring.single_issuer() && thread.tid != ring.issuer()) return -EEXIST;
  std::int64_t submitted = 0;
  if (to_submit) {
    submitted = ring.submit(thread, to_submit);
    if (submitted != to_submit) return submitted;
  }
  if (!(flags & IORING_ENTER_GETEVENTS)) return submitted;
  auto how = wait_arguments(thread, flags, a[4], a[5]);
  if (!how) return submitted ? submitted : -how.error();
  if (how->mask) {
    auto mask = how->mask_size == sizeof(SignalSet) ? read_user<SignalSet>(thread.memory(), how->mask) : err(EINVAL);
    if (!mask) return submitted ? submitted : -mask.error();
    thread.set_temporary_mask(*mask);
  }
  const std::int64_t waited = ring.wait(thread, {.completions = a.u32(2), .deadline = how->deadline});
  return submitted ? submitted : waited;
}

// Registers rings at indices of the calling thread's own table, which replace descriptors. Natively that saves a
// look-up.
std::int64_t register_rings(Thread& thread, mm::Gva at, unsigned count, bool add) {
  auto& rings = thread.rings;
  if (count == 0 || count > rings.size()) return -EINVAL;
  for (unsigned done = 0; done < count; ++done) {
    auto stop = [&](int error) { return done ? static_cast<std::int64_t>(done) : -error; };
    const mm::Gva where = at + done * sizeof(io_uring_rsrc_update);
    auto update = read_user<io_uring_rsrc_update>(thread.memory(), where);
    if (!update) return stop(EFAULT);
    if (update->resv || (!add && update->data)) return stop(EINVAL);
    if (add && update->offset == ~0u) {
      update->offset = static_cast<std::uint32_t>(std::ranges::find(rings, nullptr) - rings.begin());
      if (update->offset == rings.size()) return stop(EBUSY);
    }
    if (update->offset >= rings.size()) return stop(EINVAL);
    auto& place = rings[update->offset];
    if (!add) {
      place.reset();
      continue;
    }
    if (place) return stop(EBUSY);
    auto file = ring_file(thread, static_cast<int>(update->data));
    if (!file) return stop(file.error());
    if (!write_user(thread.memory(), where, *update)) return stop(EFAULT);
    place = std::move(*file);
  }
  return count;
}

std::int64_t sys_io_uring_register(Thread& thread, const Args& a) {
  auto file = ring_file(thread, a.i32(0));
  if (!file) return -file.error();
  const unsigned opcode = a.u32(1);
  if (opcode == IORING_REGISTER_RING_FDS || opcode == IORING_UNREGISTER_RING_FDS)
    return register_rings(thread, a[2], a.u32(3), opcode == IORING_REGISTER_RING_FDS);
  return ring_of(**file).register_call(thread, opcode, a[2], a.u32(3));
}

}  // namespace

std::span<const Definition> uring_calls() {
  static constexpr Definition kCalls[] = {
      {Call::io_uring_setup, sys_io_uring_setup},
      {Call::io_uring_enter, sys_io_uring_enter},
      {Call::io_uring_register, sys_io_uring_register},
  };
  return kCalls;
}

// --- io_uring_register ---

std::int64_t Uring::register_call(Thread& thread, unsigned opcode, mm::Gva at, unsigned count) {
  LockGuard submitting(submit_lock_);
  {
    LockGuard guard(lock_);
    if (gone_) return -ENXIO;
  }
  if (single_issuer() && thread.tid != issuer_) return -EEXIST;
  const bool nothing = !at && !count;
  switch (opcode) {
    case IORING_REGISTER_BUFFERS: return at ? register_buffers(thread, at, count) : -EFAULT;
    case IORING_UNREGISTER_BUFFERS: return nothing ? unregister_buffers(thread) : -EINVAL;
    case IORING_REGISTER_FILES: return at ? register_files(thread, at, count) : -EFAULT;
    case IORING_UNREGISTER_FILES:
      if (!nothing) return -EINVAL;
      if (!std::exchange(files_registered_, false)) return -ENXIO;
      files_.clear();  // requests in flight hold theirs
      files_charge_ = {};
      return 0;
    case IORING_REGISTER_FILES_UPDATE: return update_files(thread, at, count);
    case IORING_REGISTER_EVENTFD: return register_eventfd(thread, at, count, false);
    case IORING_REGISTER_EVENTFD_ASYNC: return register_eventfd(thread, at, count, true);
    case IORING_UNREGISTER_EVENTFD: {
      if (!nothing) return -EINVAL;
      LockGuard guard(lock_);
      if (!eventfd_) return -ENXIO;
      eventfd_.reset();
      if (std::exchange(bell_open_, false)) io_uring_queue_exit(&bell_);
      return 0;
    }
    case IORING_REGISTER_PROBE: return at && count <= 256 ? probe(thread, at, count) : -EINVAL;
    default: return -EINVAL;
  }
}

std::int64_t Uring::register_buffers(Thread& thread, mm::Gva at, unsigned count) {
  if (buffers_) return -EBUSY;
  auto buffers = RegisteredBuffers::pin(thread, at, count);
  if (!buffers) return -buffers.error();
  if (!(*buffers)->register_with(host_)) devices_->counters().unregistered.fetch_add(count, std::memory_order_relaxed);
  buffers_ = std::move(*buffers);
  return 0;
}

std::int64_t Uring::unregister_buffers(Thread& thread) {
  if (!buffers_) return -ENXIO;
  // Some kernels wait for the entries in flight that use them.
  if (buffers_->registered()) {
    const auto host = static_cast<std::uint64_t>(host_.ring_fd);
    const std::int64_t r = thread.blocking(SYS_io_uring_register, host, IORING_UNREGISTER_BUFFERS);
    if (r < 0) return r;
  }
  buffers_.reset();
  return 0;
}

namespace {

// The file to register; -1 leaves the place free (null). Rings are refused: one could hold itself.
OrErrno<std::shared_ptr<OpenFile>> file_to_register(Thread& thread, int fd) {
  if (fd == -1) return nullptr;
  auto file = thread.process.files.get(fd);
  if (!file || (file->flags & O_PATH) || file->kind == OpenFile::Kind::Uring) return err(EBADF);
  return file;
}

}  // namespace

std::int64_t Uring::register_files(Thread& thread, mm::Gva at, unsigned count) {
  if (files_registered_) return -EBUSY;
  if (count == 0) return -EINVAL;
  if (count > Limits::kOpenFiles) return -EMFILE;
  auto fds = read_user_array<int>(thread.memory(), at, count, count);
  if (!fds) return -fds.error();
  std::vector<std::shared_ptr<OpenFile>> files;
  mm::Charge charge(memory_.account());
  if (!charge.grow(count * sizeof files[0])) return -ENOMEM;
  files.reserve(count);
  for (int fd : *fds) {
    auto file = file_to_register(thread, fd);
    if (!file) return -file.error();
    files.push_back(std::move(*file));
  }
  files_ = std::move(files);
  files_charge_ = std::move(charge);
  files_registered_ = true;
  return 0;
}

std::int64_t Uring::update_files(Thread& thread, mm::Gva at, unsigned count) {
  if (!files_registered_) return -ENXIO;
  if (count == 0) return -EINVAL;
  auto update = read_user<io_uring_files_update>(thread.memory(), at);
  if (!update) return -update.error();
  if (update->resv) return -EINVAL;
  if (update->offset > files_.size() || count > files_.size() - update->offset) return -EINVAL;
  auto fds = read_user_array<int>(thread.memory(), update->fds, count, count);
  if (!fds) return -fds.error();
  unsigned done = 0;
  for (int fd : *fds) {
    const std::size_t place = update->offset + done;
    if (fd != IORING_REGISTER_FILES_SKIP) {
      auto file = file_to_register(thread, fd);
      if (!file) return done ? static_cast<std::int64_t>(done) : -file.error();
      files_[place] = std::move(*file);
    }
    ++done;
  }
  return done;
}

// Linux signals the eventfd without ever waiting, while write(2) waits if the guest has filled it up. So a second ring
// of the host, bell_, signals it by completing the entries of announce_locked(). host_ must not signal it: the guest
// would look before the completion is in its memory.
std::int64_t Uring::register_eventfd(Thread& thread, mm::Gva at, unsigned count, bool async_only) {
  if (count != 1) return -EINVAL;
  {
    LockGuard guard(lock_);
    if (eventfd_) return -EBUSY;
  }
  auto fd = read_user<int>(thread.memory(), at);
  if (!fd) return -fd.error();
  auto file = thread.process.files.get(*fd);
  if (!file) return -EBADF;
  if (file->kind != OpenFile::Kind::Event) return -EINVAL;
  LockGuard guard(lock_);
  if (int r = io_uring_queue_init(4, &bell_, 0); r < 0) return r;
  if (int r = io_uring_register_eventfd(&bell_, file->host.get()); r < 0) {
    io_uring_queue_exit(&bell_);
    return r;
  }
  bell_open_ = true;
  eventfd_ = std::move(file);
  eventfd_async_only_ = async_only;
  return 0;
}

std::int64_t Uring::probe(Thread& thread, mm::Gva at, unsigned count) {
  const std::size_t bytes = sizeof(io_uring_probe) + count * sizeof(io_uring_probe_op);
  std::vector<std::byte> answer(bytes);
  if (!thread.memory().read(at, answer)) return -EFAULT;
  if (std::ranges::any_of(answer, [](std::byte b) { return b != std::byte{0}; })) return -EINVAL;
  unsigned last = 0;
  for (unsigned op = 0; op < 256; ++op)
    if (uring_serves(op)) last = op;
  io_uring_probe head{};
  head.last_op = static_cast<std::uint8_t>(last);
  head.ops_len = static_cast<std::uint8_t>(std::min(count, last + 1));
  std::memcpy(answer.data(), &head, sizeof head);
  for (unsigned op = 0; op < head.ops_len; ++op) {
    io_uring_probe_op entry{};
    entry.op = static_cast<std::uint8_t>(op);
    entry.flags = uring_serves(op) ? IO_URING_OP_SUPPORTED : 0;
    std::memcpy(answer.data() + sizeof head + op * sizeof entry, &entry, sizeof entry);
  }
  return thread.memory().write(at, answer) ? 0 : -EFAULT;
}

}  // namespace ramet::vmm
