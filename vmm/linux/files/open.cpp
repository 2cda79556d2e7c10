// Opening: what a found object is, whether it may be opened, and the host descriptor that stands for it.
#include <linux/openat2.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>

#include "vmm/linux/files/state.hpp"
#include "vmm/linux/files/synthetic.hpp"
#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/process.hpp"
#include "vmm/linux/processes/thread.hpp"

namespace ramet::vmm {
namespace {

// The flags that are passed to the host; all flags in this file are the host's. O_CLOEXEC belongs to the table; the VMM
// never wants a controlling terminal, nor SIGIO.
constexpr int kHostFlags = O_ACCMODE | O_APPEND | O_NONBLOCK | O_DIRECT | O_DSYNC | O_SYNC | O_NOATIME | O_TRUNC |
                           O_DIRECTORY | O_TMPFILE;
// New files never run as somebody else: no set-user-id, no set-group-id.
constexpr mode_t kModeBits = 01777;
constexpr int kTmpfile = O_TMPFILE & ~O_DIRECTORY;

// null, zero, full, random, urandom.
bool harmless_device(const struct stat& st) {
  if (!S_ISCHR(st.st_mode) || major(st.st_rdev) != 1) return false;
  switch (minor(st.st_rdev)) {
    case 3:
    case 5:
    case 7:
    case 8:
    case 9: return true;
    default: return false;
  }
}

// Opens again what a host descriptor stands for. A FIFO may wait for its other end.
OrErrno<HostFd> reopen(Thread* thread, int host, int flags, mode_t mode, bool fifo) {
  std::string path = fd_path(host);
  flags = (flags & kHostFlags) | O_CLOEXEC | O_NOCTTY;
  std::int64_t fd;
  if (fifo && !(flags & O_NONBLOCK)) {
    if (!thread) return err(EACCES);
    fd = thread->blocking(SYS_openat, static_cast<std::uint64_t>(AT_FDCWD),
                          reinterpret_cast<std::uint64_t>(path.c_str()), static_cast<std::uint64_t>(flags), mode);
  } else {
    fd = result_of(::open(path.c_str(), flags, mode));
  }
  if (fd < 0) return err(static_cast<int>(-fd));
  return HostFd(static_cast<int>(fd));
}

// The same open file description once more, for descriptors whose object must not be opened anew (the
// host's own standard input may be a file that was given to be read only).
OrErrno<std::shared_ptr<OpenFile>> duplicate(const OpenFile& file, int flags) {
  int had = file.flags & O_ACCMODE, wanted = flags & O_ACCMODE;
  if (had != O_RDWR && had != wanted) return err(EACCES);
  HostFd copy(::fcntl(file.host.get(), F_DUPFD_CLOEXEC, 0));
  if (!copy) return err(errno);
  auto again = make_file(file.kind, std::move(copy), had, file.path);
  again->writable_mount = file.writable_mount;
  return again;
}

}  // namespace

bool wants_write(int flags) { return (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC); }

unsigned wanted_of(int flags) {
  const unsigned wanted = (flags & O_ACCMODE) == O_WRONLY ? W_OK : (flags & O_ACCMODE) == O_RDONLY ? R_OK : R_OK | W_OK;
  return flags & O_TRUNC ? wanted | W_OK : wanted;
}

OpenFile::Kind kind_of(mode_t mode) {
  if (S_ISDIR(mode)) return OpenFile::Kind::Directory;
  if (S_ISFIFO(mode)) return OpenFile::Kind::Pipe;
  if (S_ISSOCK(mode)) return OpenFile::Kind::Socket;
  if (S_ISCHR(mode) || S_ISBLK(mode)) return OpenFile::Kind::Device;
  return OpenFile::Kind::File;
}

namespace {

OrErrno<std::shared_ptr<OpenFile>> open_path_only(const Found& found, int flags) {
  HostFd fd(::open(fd_path(found.host()).c_str(), O_PATH | O_CLOEXEC));
  // A symbolic link's descriptor cannot be opened through its name in /proc; it is copied.
  if (S_ISLNK(found.st.st_mode)) fd = HostFd(::fcntl(found.host(), F_DUPFD_CLOEXEC, 0));
  if (!fd) return err(errno);
  return make_file(kind_of(found.st.st_mode), std::move(fd), flags & (O_PATH | O_DIRECTORY | O_NOFOLLOW), found.path());
}

// Whether the object's type or permissions refuse these flags: errno, or 0. `who`: Files::State::restricting()'s
// result.
int refused_kind(const Found& found, int flags, bool temporary, bool may_write, const Credentials* who) {
  const mode_t type = found.st.st_mode;
  if (S_ISLNK(type)) return ELOOP;
  if (S_ISSOCK(type)) return ENXIO;
  if ((S_ISCHR(type) || S_ISBLK(type)) && !harmless_device(found.st)) return EACCES;
  if (temporary) {
    if ((flags & O_ACCMODE) == O_RDONLY) return EINVAL;
  } else if (S_ISDIR(type) && ((flags & (O_CREAT | O_TRUNC)) || (flags & O_ACCMODE) != O_RDONLY)) {
    return EISDIR;
  }
  if (wants_write(flags) && !may_write && !S_ISCHR(type)) return EROFS;
  if (int error = refused(who, found.st, temporary ? W_OK | X_OK : wanted_of(flags))) return error;
  return who && (flags & O_NOATIME) && !owns(*who, found.st.st_uid) ? EPERM : 0;
}

// Opens a file of /proc/self/fd that the host cannot open anew: the VMM's own files, and those without a name. None:
// the host can open it.
std::optional<OrErrno<std::shared_ptr<OpenFile>>> open_again(Files::State& state, Found& found, int flags, int tid) {
  const OpenFile& file = *found.file;
  using enum OpenFile::Kind;
  if (file.kind == Socket || file.kind == Event || file.kind == Timer || file.kind == Epoll || file.kind == Uring ||
      file.kind == Signal)
    return err(ENXIO);
  if (file.kind == Synthetic || file.kind == GupTest || file.synthetic) {
    found.node.path = file.path;
    auto entry = proc_lookup({state, state.process, tid}, file.path);
    if (entry) found.st = proc_stat(file.path, *entry);
    return open_synthetic(state, found, flags, tid);
  }
  const bool no_file = file.kind == Stdio || file.kind == Device || (file.kind == Pipe && file.path.empty());
  if (no_file && !(file.flags & O_PATH)) {
    if (flags & O_DIRECTORY) return err(ENOTDIR);
    return duplicate(file, flags);
  }
  if (::fstat(file.host.get(), &found.st) != 0) return err(errno);
  return std::nullopt;
}

}  // namespace

OrErrno<std::shared_ptr<OpenFile>> Files::State::open_found(Thread* thread, Found& found, int flags, mode_t mode) {
  const int tid = thread ? thread->tid : 0;
  if (found.file) {
    if (auto opened = open_again(*this, found, flags, tid)) return *opened;
  } else if (!found.node.fd) {
    return open_synthetic(*this, found, flags, tid);
  }
  const bool may_write = found.file ? found.file->writable_mount : writable(found.node);
  if ((flags & O_DIRECTORY) && !S_ISDIR(found.st.st_mode)) return err(ENOTDIR);
  auto file = flags & O_PATH ? open_path_only(found, flags) : open_object(thread, found, flags, mode, may_write);
  if (!file) return file;
  (*file)->mount = found.file ? found.file->mount : found.node.mount;
  (*file)->writable_mount = may_write;
  if (found.file) (*file)->charge = found.file->charge;
  return file;
}

OrErrno<std::shared_ptr<OpenFile>> Files::State::open_object(Thread* thread, const Found& found, int flags, mode_t mode,
                                                             bool may_write) {
  const Credentials* who = thread && thread->credentials() != Credentials::of_vmm() ? thread->credentials().get()
                                                                                    : nullptr;
  const int host = found.host();
  const mode_t type = found.st.st_mode;
  const bool temporary = (flags & kTmpfile) == kTmpfile;
  if (int error = refused_kind(found, flags, temporary, may_write, who)) return err(error);
  if (thread && S_ISREG(type)) {
    const bool writes = (flags & O_ACCMODE) != O_RDONLY;
    if (int error = process->family.leases->wait_for_holders(*thread, found.st, writes, flags & O_NONBLOCK))
      return err(error);
  }
  const mode_t wanted = temporary ? masked(mode & kModeBits) : 0;
  OrErrno<HostFd> fd = err(EIO);
  const auto open_it = [&]() -> std::int64_t {
    fd = reopen(thread, host, flags & ~(O_CREAT | O_EXCL | O_NOFOLLOW), wanted, S_ISFIFO(type));
    return fd ? 0 : -fd.error();
  };
  if ((flags & O_TRUNC) && S_ISREG(type)) truncating(*this, host, 0, open_it);
  else open_it();
  if (!fd) return err(fd.error());
  if (temporary && (wanted & host_umask()) && ::fchmod(fd->get(), wanted) != 0) return err(errno);
  if (temporary)
    if (int error = give_to(who, fd->get(), found.st)) return err(error);
  return make_file(temporary ? OpenFile::Kind::File : kind_of(type), std::move(*fd), flags & (O_ACCMODE | O_DIRECTORY),
                   temporary ? join(found.path(), "#tmp") : found.path());
}

OrErrno<std::shared_ptr<OpenFile>> Files::State::create(const Parent& where, int flags, mode_t mode,
                                                        const Credentials* who) {
  if (where.slash) return err(EISDIR);
  if (!where.dir.fd) return err(EACCES);
  if (!writable(where.dir)) return err(EROFS);
  struct stat directory;
  if (::fstat(where.dir.fd->get(), &directory) != 0) return err(errno);
  if (forbidden(where.dir, directory)) return err(EACCES);
  if ((flags & (O_DIRECTORY | O_CREAT)) == (O_DIRECTORY | O_CREAT)) return err(EINVAL);
  if (int error = refused(who, directory, W_OK | X_OK)) return err(error);
  mode = masked(mode & kModeBits);
  open_how how{};
  how.flags = static_cast<std::uint64_t>((flags & kHostFlags & ~kTmpfile) | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC |
                                         O_NOCTTY);
  how.mode = mode;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  HostFd fd(static_cast<int>(::syscall(SYS_openat2, where.dir.fd->get(), where.name.c_str(), &how, sizeof how)));
  if (!fd) return err(errno);
  int error = (mode & host_umask()) && ::fchmod(fd.get(), mode) != 0 ? errno : 0;
  if (!error) error = give_to(who, fd.get(), directory);
  if (error) {
    ::unlinkat(where.dir.fd->get(), where.name.c_str(), 0);
    return err(error);
  }
  auto file = make_file(OpenFile::Kind::File, std::move(fd), flags & O_ACCMODE, join(where.dir.path, where.name));
  file->mount = where.dir.mount;
  file->writable_mount = true;
  return file;
}

OrErrno<std::shared_ptr<OpenFile>> Files::State::open(Thread* thread, const Node& from, const std::string& path,
                                                      int flags, mode_t mode, std::uint64_t resolve) {
  int tid = thread ? thread->tid : 0;
  if (flags & O_PATH) flags &= O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  if ((flags & O_TMPFILE) == kTmpfile) return err(EINVAL);
  if ((flags & O_CREAT) && (flags & O_DIRECTORY)) return err(EINVAL);
  if ((flags & O_CREAT) && path.ends_with('/') && path.find_first_not_of('/') != path.npos) {
    auto where = parent(from, path, tid);
    return err(where ? EISDIR : where.error());
  }
  bool follow = !(flags & O_NOFOLLOW) && (flags & (O_CREAT | O_EXCL)) != (O_CREAT | O_EXCL);
  // Somebody else may create or remove the name between the look and the creation: look again.
  for (int attempt = 0; attempt < 100; ++attempt) {
    auto found = resolve ? walk(from, path, follow, tid, nullptr, resolve) : find(from, path, follow, tid);
    if (found) {
      if ((flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL)) return err(EEXIST);
      return open_found(thread, *found, flags, mode);
    }
    if (found.error() != ENOENT || !(flags & O_CREAT)) return err(found.error());
    Parent missing;
    auto again = walk(from, path, follow, tid, &missing, resolve);
    if (again) continue;
    if (again.error() != ENOENT || missing.name.empty()) return err(again.error());
    auto created = create(missing, flags, mode, restricting(tid).get());
    if (created || created.error() != EEXIST) return created;
  }
  return err(EEXIST);
}

namespace {

std::int64_t open_at(Thread& thread, int dirfd, mm::Gva at, int flags, mode_t mode, std::uint64_t resolve = 0) {
  auto& state = state_of(thread);
  auto path = read_user_path(thread.memory(), at);
  if (!path) return -path.error();
  auto number = state.reserve();
  if (!number) return -number.error();
  // A walk that is to stay below begins there, even with an absolute path.
  const bool scoped = resolve & (RESOLVE_BENEATH | RESOLVE_IN_ROOT);
  auto from = state.base(dirfd, scoped ? std::string(".") : *path);
  if (!from) return -from.error();
  auto file = state.open(&thread, *from, *path, flags, mode, resolve);
  // EINTR: it waited for a FIFO's other end or for a lease. Linux restarts the call.
  if (!file) return file.error() == EINTR ? kRestartSys : -file.error();
  return std::move(*number).put(std::move(*file), flags & O_CLOEXEC);
}

int host_flags(const Thread& thread, unsigned flags) {
  return static_cast<int>(thread.abi().open_flags_to_host(flags));
}

std::int64_t sys_open(Thread& thread, const Args& a) {
  return open_at(thread, AT_FDCWD, a[0], host_flags(thread, a.u32(1)), a.u32(2));
}
std::int64_t sys_openat(Thread& thread, const Args& a) {
  return open_at(thread, a.i32(0), a[1], host_flags(thread, a.u32(2)), a.u32(3));
}
std::int64_t sys_creat(Thread& thread, const Args& a) {
  return open_at(thread, AT_FDCWD, a[0], O_CREAT | O_WRONLY | O_TRUNC, a.u32(1));
}

std::int64_t sys_openat2(Thread& thread, const Args& a) {
  if (a[3] < sizeof(open_how)) return -EINVAL;
  if (a[3] > mm::kPageSize) return -E2BIG;
  auto how = read_user<open_how>(thread.memory(), a[2]);
  if (!how) return -how.error();
  auto extra = read_user_array<char>(thread.memory(), a[2] + sizeof(open_how), a[3] - sizeof(open_how), mm::kPageSize);
  if (!extra) return -extra.error();
  for (char c : *extra)
    if (c != 0) return -E2BIG;
  constexpr std::uint64_t kKnown = O_ACCMODE | O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_APPEND | O_NONBLOCK | O_SYNC |
                                   O_DSYNC | O_ASYNC | O_DIRECT | arch::kLargeFile | O_DIRECTORY | O_NOFOLLOW |
                                   O_NOATIME | O_CLOEXEC | O_PATH | O_TMPFILE;
  how->flags = thread.abi().open_flags_to_host(how->flags);
  bool creates = (how->flags & O_CREAT) || (how->flags & O_TMPFILE) == O_TMPFILE;
  if ((how->flags & ~kKnown) || (how->mode & ~07777ull) || (how->mode && !creates)) return -EINVAL;
  // Other calls ignore flags that mean nothing with O_PATH; this one refuses them.
  constexpr std::uint64_t kForPath = O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  if ((how->flags & O_PATH) && (how->flags & ~kForPath)) return -EINVAL;
  constexpr std::uint64_t kWalk = RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH |
                                  RESOLVE_IN_ROOT;
  if ((how->resolve & ~(kWalk | RESOLVE_CACHED)) || (~how->resolve & (RESOLVE_BENEATH | RESOLVE_IN_ROOT)) == 0)
    return -EINVAL;
  if (how->resolve & RESOLVE_CACHED) return -EAGAIN;  // nothing is cached; the program asks again without
  return open_at(thread, a.i32(0), a[1], static_cast<int>(how->flags), static_cast<mode_t>(how->mode), how->resolve);
}

}  // namespace

std::span<const Definition> open_calls() {
  static constexpr Definition kCalls[] = {{Call::open, sys_open},
                                          {Call::openat, sys_openat},
                                          {Call::creat, sys_creat},
                                          {Call::openat2, sys_openat2}};
  return kCalls;
}

}  // namespace ramet::vmm
