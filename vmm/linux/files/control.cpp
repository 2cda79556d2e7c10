// fcntl, ioctl, locks, and the calls that push a file's bytes to its disk.
#include <linux/fs.h>
#include <linux/sockios.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#include <cerrno>

#include "vmm/linux/files/state.hpp"
#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/process.hpp"
#include "vmm/linux/processes/thread.hpp"

namespace ramet::vmm {
namespace {

// Beyond the family's limit it is EPERM, as Linux has it for users with many pages in pipes.
std::int64_t resize_pipe(OpenFile& file, int bytes) {
  const int host = file.host.get();
  const int before = ::fcntl(host, F_GETPIPE_SZ);
  const int now = ::fcntl(host, F_SETPIPE_SZ, bytes);
  if (before < 0 || now < 0) return -errno;
  if (now <= before || !file.charged || file.charged->grow(static_cast<std::uint64_t>(now - before))) return now;
  ::fcntl(host, F_SETPIPE_SZ, before);
  return -EPERM;
}

constexpr int kStatusFlags = O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME;

std::int64_t get_flags(const OpenFile& file) {
  int host = ::fcntl(file.host.get(), F_GETFL);
  if (host < 0) return -errno;
  if (file.flags & O_PATH) return file.flags;
  return (file.flags & (O_ACCMODE | O_DIRECTORY)) | (host & (kStatusFlags | O_SYNC | O_DSYNC | arch::kLargeFile)) |
         (is_async(file) ? O_ASYNC : 0);
}

std::int64_t set_flags(Thread& thread, OpenFile& file, int number, int flags) {
  if (file.flags & O_PATH) return -EBADF;
  int host = ::fcntl(file.host.get(), F_GETFL);
  if (host < 0) return -errno;
  if (can_be_async(file))
    if (const std::int64_t bad = set_async(thread, file, number, flags & O_ASYNC)) return bad;
  return result_of(::fcntl(file.host.get(), F_SETFL, (host & ~kStatusFlags) | (flags & kStatusFlags)));
}

std::int64_t sys_fcntl(Thread& thread, const Args& a) {
  auto& state = state_of(thread);
  int fd = a.i32(0), command = a.i32(1);
  auto file = state.get(fd);
  if (!file) return -EBADF;
  int host = file->host.get();
  switch (command) {
    case F_DUPFD:
    case F_DUPFD_CLOEXEC: {
      if (a.u32(2) >= kMaxDescriptors) return -EINVAL;
      auto copy = state.install(file, command == F_DUPFD_CLOEXEC, a.i32(2));
      return copy ? *copy : -copy.error();
    }
    case F_GETFD: {
      const auto close_on_exec = state.descriptors.close_on_exec(fd);
      if (!close_on_exec) return -EBADF;
      return *close_on_exec ? FD_CLOEXEC : 0;
    }
    case F_SETFD: return state.descriptors.set_close_on_exec(fd, a[2] & FD_CLOEXEC) ? 0 : -EBADF;
    case F_GETFL: {
      const std::int64_t flags = get_flags(*file);
      return flags < 0 ? flags
                       : static_cast<std::int64_t>(thread.abi().open_flags_to_guest(static_cast<std::uint64_t>(flags)));
    }
    case F_SETFL: return set_flags(thread, *file, fd, static_cast<int>(thread.abi().open_flags_to_host(a.u32(2))));
    case F_SETOWN:
    case F_GETOWN:
    case F_SETOWN_EX:
    case F_GETOWN_EX:
    case F_SETSIG:
    case F_GETSIG: return file->flags & O_PATH ? -EBADF : owner_call(thread, *file, command, a[2]);
    case F_SETLEASE: return thread.process.family.leases->set(thread, *file, fd, a.i32(2));
    case F_GETLEASE: return file->flags & O_PATH ? -EBADF : thread.process.family.leases->get(*file);
    case F_GETLK:
    case F_SETLK:
    case F_SETLKW:
    case F_OFD_GETLK:
    case F_OFD_SETLK:
    case F_OFD_SETLKW: return lock_call(thread, *file, command, a[2]);
    case F_GETPIPE_SZ: return result_of(::fcntl(host, F_GETPIPE_SZ));
    case F_SETPIPE_SZ:
      // Linux's limit for unprivileged users; the VMM may be privileged.
      if (a.u32(2) > (1u << 20)) return -EPERM;
      return resize_pipe(*file, a.i32(2));
    case F_GET_SEALS: return result_of(::fcntl(host, F_GET_SEALS));
    case F_ADD_SEALS: return file->charge ? result_of(::fcntl(host, F_ADD_SEALS, a.i32(2))) : -EINVAL;
    default: return -EINVAL;
  }
}

std::int64_t sys_flock(Thread& thread, const Args& a) {
  auto file = state_of(thread).get(a.i32(0));
  if (!file || (file->flags & O_PATH)) return -EBADF;
  if (file->kind == OpenFile::Kind::Synthetic || file->synthetic) return 0;
  std::int64_t result = thread.blocking(SYS_flock, static_cast<std::uint64_t>(file->host.get()), a.u32(1));
  return restartable(result);
}

// --- ioctl ---

// The kernel's struct termios and termios2; those of the C library differ.
struct KernelTermios {
  std::uint32_t flags[4];
  std::uint8_t line, characters[19];
};
struct KernelTermios2 {
  KernelTermios base;
  std::uint32_t input_speed, output_speed;
};
constexpr unsigned kGetTermios2 = 0x802C542A, kSetTermios2 = 0x402C542B;  // TCGETS2; TCSETSW2, TCSETSF2 follow

template <class T>
std::int64_t forward_get(Thread& thread, int host, unsigned request, mm::Gva at) {
  T value{};
  if (::ioctl(host, request, &value) < 0) return -errno;
  auto written = write_user(thread.memory(), at, value);
  return written ? 0 : -written.error();
}

template <class T>
std::int64_t forward_set(Thread& thread, int host, unsigned request, mm::Gva at) {
  auto value = read_user<T>(thread.memory(), at);
  if (!value) return -value.error();
  // May wait for output to drain.
  std::int64_t result = thread.blocking(SYS_ioctl, static_cast<std::uint64_t>(host), request,
                                        reinterpret_cast<std::uint64_t>(&*value));
  return restartable(result);
}

std::int64_t terminal(Thread& thread, int host, unsigned request, mm::Gva at) {
  switch (request) {
    case TCGETS: return forward_get<KernelTermios>(thread, host, request, at);
    case kGetTermios2: return forward_get<KernelTermios2>(thread, host, request, at);
    case TCSETS:
    case TCSETSW:
    case TCSETSF: return forward_set<KernelTermios>(thread, host, request, at);
    case kSetTermios2:
    case kSetTermios2 + 1:
    case kSetTermios2 + 2: return forward_set<KernelTermios2>(thread, host, request, at);
    case TIOCGWINSZ: return forward_get<winsize>(thread, host, request, at);
    case TIOCGPGRP: {
      // The family has the terminal while the VMM's group does; one of its groups then is in the foreground.
      int group = 0;
      if (::ioctl(host, TIOCGPGRP, &group) < 0) return -errno;
      auto written = write_user(thread.memory(), at, group == ::getpgrp() ? thread.process.family.foreground() : 1);
      return written ? 0 : -written.error();
    }
    case TIOCSPGRP: {
      auto group = read_user<int>(thread.memory(), at);
      if (!group) return -group.error();
      if (!::isatty(host)) return -ENOTTY;
      Family& family = thread.process.family;
      const int session = family.relations(thread.process.pid)->session;
      if (session != family.first_id()) return -ENOTTY;  // the terminal is the first process's
      auto done = family.set_foreground(session, *group);
      return done ? 0 : -done.error();
    }
    default: return -ENOTTY;
  }
}

std::int64_t sys_ioctl(Thread& thread, const Args& a) {
  auto& state = state_of(thread);
  int fd = a.i32(0);
  auto file = state.get(fd);
  if (!file || (file->flags & O_PATH)) return -EBADF;
  unsigned request = a.u32(1);
  switch (request) {
    case FIOCLEX:
    case FIONCLEX: return state.descriptors.set_close_on_exec(fd, request == FIOCLEX) ? 0 : -EBADF;
    case FIONBIO: {
      auto on = read_user<int>(thread.memory(), a[2]);
      if (!on) return -on.error();
      return result_of(::ioctl(file->host.get(), FIONBIO, &*on));
    }
    case FIOASYNC: {
      auto on = read_user<int>(thread.memory(), a[2]);
      if (!on) return -on.error();
      if (can_be_async(*file)) return set_async(thread, *file, fd, *on);
      return *on ? -ENOTTY : 0;
    }
    case FIOSETOWN:
    case SIOCSPGRP:
    case FIOGETOWN:
    case SIOCGPGRP: return owner_ioctl(thread, *file, request, a[2]);
    case FIGETBSZ: return forward_get<int>(thread, file->host.get(), request, a[2]);
    case TIOCOUTQ:  // SIOCOUTQ
      if (!is_socket(*file) && file->kind != OpenFile::Kind::Stdio) return -ENOTTY;
      return forward_get<int>(thread, file->host.get(), request, a[2]);
    case FIONREAD:  // SIOCINQ
      if (file->kind == OpenFile::Kind::Directory) return -ENOTTY;
      return forward_get<int>(thread, file->host.get(), request, a[2]);
    default:
      if (file->operations) return file->operations->ioctl(thread, request, a[2]);
      if (file->kind != OpenFile::Kind::Stdio) return -ENOTTY;
      return terminal(thread, file->host.get(), request, a[2]);
  }
}

// --- to the disk ---

OrErrno<std::shared_ptr<OpenFile>> syncable(Thread& thread, int fd) {
  auto file = state_of(thread).get(fd);
  if (!file || (file->flags & O_PATH)) return err(EBADF);
  if (file->synthetic || file->kind == OpenFile::Kind::Synthetic) return err(EINVAL);
  return file;
}

std::int64_t sys_fsync(Thread& thread, const Args& a) {
  auto file = syncable(thread, a.i32(0));
  return file ? result_of(::fsync((*file)->host.get())) : -file.error();
}
std::int64_t sys_fdatasync(Thread& thread, const Args& a) {
  auto file = syncable(thread, a.i32(0));
  return file ? result_of(::fdatasync((*file)->host.get())) : -file.error();
}
std::int64_t sys_syncfs(Thread& thread, const Args& a) {
  auto file = state_of(thread).get(a.i32(0));
  if (!file || (file->flags & O_PATH)) return -EBADF;
  return result_of(::syncfs(file->host.get()));  // /proc and its like stand on memory files, and have such a system
}

// What the guest may have written: the file systems of its writable shares, not the whole host.
std::int64_t sys_sync(Thread& thread, const Args&) {
  for (const Mount& m : state_of(thread).mounts) {
    if (!m.writable) continue;
    HostFd directory(::open(fd_path(m.directory().get()).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (directory) (void)::syncfs(directory.get());  // sync(2) reports nothing
  }
  return 0;
}

std::int64_t sys_sync_file_range(Thread& thread, const Args& a) {
  auto file = syncable(thread, a.i32(0));
  return file ? result_of(::sync_file_range((*file)->host.get(), a.i64(1), a.i64(2), a.u32(3))) : -file.error();
}
std::int64_t sys_fadvise64(Thread& thread, const Args& a) {
  auto file = state_of(thread).get(a.i32(0));
  if (!file || (file->flags & O_PATH)) return -EBADF;
  return -::posix_fadvise(file->host.get(), a.i64(1), a.i64(2), a.i32(3));
}
std::int64_t sys_readahead(Thread& thread, const Args& a) {
  auto file = syncable(thread, a.i32(0));
  return file ? result_of(::readahead((*file)->host.get(), a.i64(1), a[2])) : -file.error();
}

}  // namespace

std::span<const Definition> control_calls() {
  static constexpr Definition kCalls[] = {
      {Call::fcntl, sys_fcntl},         {Call::ioctl, sys_ioctl},
      {Call::flock, sys_flock},         {Call::fsync, sys_fsync},
      {Call::fdatasync, sys_fdatasync}, {Call::syncfs, sys_syncfs},
      {Call::sync, sys_sync},           {Call::sync_file_range, sys_sync_file_range},
      {Call::fadvise64, sys_fadvise64}, {Call::readahead, sys_readahead},
  };
  return kCalls;
}

}  // namespace ramet::vmm
