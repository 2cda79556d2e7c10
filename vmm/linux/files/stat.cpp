// What a file is: the stat family, access, readlink, statfs.
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>

#include "vmm/linux/files/state.hpp"
#include "vmm/linux/files/synthetic.hpp"
#include "vmm/linux/processes/process.hpp"
#include "vmm/linux/processes/thread.hpp"

namespace ramet::vmm {

OrErrno<struct stat> stat_of(const Files::State& state, const OpenFile& file) {
  if (file.synthetic || file.kind == OpenFile::Kind::Synthetic || file.kind == OpenFile::Kind::GupTest) {
    auto entry = proc_lookup({state, state.process, 0}, file.path);
    if (!entry)
      entry = ProcEntry{.type = file.synthetic ? ProcEntry::Type::Directory : ProcEntry::Type::File,
                        .target = {},
                        .file = nullptr};
    return proc_stat(file.path, *entry);
  }
  struct stat st;
  if (::fstat(file.host.get(), &st) != 0) return err(errno);
  return st;
}

OrErrno<struct stat> stat_of(const Files::State& state, const Found& found) {
  if (found.file) return stat_of(state, *found.file);
  return found.st;
}

OrErrno<Found> locate(Thread& thread, int dirfd, mm::Gva at, int flags) {
  auto& state = state_of(thread);
  // Since Linux 6.11 a null pointer does for the empty path.
  OrErrno<std::string> path = at == 0 && (flags & AT_EMPTY_PATH) ? std::string() : read_user_path(thread.memory(), at);
  if (!path) return err(path.error());
  if (path->empty() && (flags & AT_EMPTY_PATH)) {
    Found found;
    found.file = dirfd == AT_FDCWD ? state.working_directory() : state.get(dirfd);
    if (!found.file) return err(EBADF);
    auto st = stat_of(state, *found.file);
    if (!st) return err(st.error());
    found.st = *st;
    return found;
  }
  auto from = state.base(dirfd, *path);
  if (!from) return err(from.error());
  return state.find(*from, *path, !(flags & AT_SYMLINK_NOFOLLOW), thread.tid);
}

namespace {

std::int64_t give_stat(Thread& thread, const OrErrno<Found>& found, mm::Gva out) {
  if (!found) return -found.error();
  auto st = stat_of(state_of(thread), *found);
  if (!st) return -st.error();
  std::array<std::byte, arch::GuestAbi::kMostStatBytes> bytes;
  const auto guest = std::span(bytes).first(thread.abi().stat_bytes);
  thread.abi().put_stat(*st, guest);
  return thread.memory().write(out, guest) ? 0 : -EFAULT;
}

std::int64_t sys_stat(Thread& thread, const Args& a) {
  return give_stat(thread, locate(thread, AT_FDCWD, a[0], 0), a[1]);
}
std::int64_t sys_lstat(Thread& thread, const Args& a) {
  return give_stat(thread, locate(thread, AT_FDCWD, a[0], AT_SYMLINK_NOFOLLOW), a[1]);
}
std::int64_t sys_fstat(Thread& thread, const Args& a) {
  auto file = thread.process.files.get(a.i32(0));
  if (!file) return -EBADF;
  Found found;
  found.file = std::move(file);
  return give_stat(thread, found, a[1]);
}
std::int64_t sys_newfstatat(Thread& thread, const Args& a) {
  int flags = a.i32(3);
  if (flags & ~(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH)) return -EINVAL;
  return give_stat(thread, locate(thread, a.i32(0), a[1], flags), a[2]);
}

statx_timestamp stamp(const timespec& ts) {
  statx_timestamp s{};
  s.tv_sec = ts.tv_sec;
  s.tv_nsec = static_cast<std::uint32_t>(ts.tv_nsec);
  return s;
}

struct statx statx_from(const struct stat& st) {
  struct statx x{};
  x.stx_mask = STATX_BASIC_STATS;
  x.stx_blksize = static_cast<std::uint32_t>(st.st_blksize);
  x.stx_nlink = static_cast<std::uint32_t>(st.st_nlink);
  x.stx_uid = st.st_uid;
  x.stx_gid = st.st_gid;
  x.stx_mode = static_cast<std::uint16_t>(st.st_mode);
  x.stx_ino = st.st_ino;
  x.stx_size = static_cast<std::uint64_t>(st.st_size);
  x.stx_blocks = static_cast<std::uint64_t>(st.st_blocks);
  x.stx_atime = stamp(st.st_atim);
  x.stx_mtime = stamp(st.st_mtim);
  x.stx_ctime = stamp(st.st_ctim);
  x.stx_rdev_major = major(st.st_rdev);
  x.stx_rdev_minor = minor(st.st_rdev);
  x.stx_dev_major = major(st.st_dev);
  x.stx_dev_minor = minor(st.st_dev);
  return x;
}

std::int64_t sys_statx(Thread& thread, const Args& a) {
  int flags = a.i32(2);
  constexpr int kSync = AT_STATX_FORCE_SYNC | AT_STATX_DONT_SYNC;
  if (flags & ~(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | kSync)) return -EINVAL;
  if ((flags & kSync) == kSync || (a.u32(3) & STATX__RESERVED)) return -EINVAL;
  auto found = locate(thread, a.i32(0), a[1], flags);
  if (!found) return -found.error();
  struct statx x;
  if (found->synthetic()) {
    x = statx_from(found->st);
  } else if (::statx(found->host(), "", AT_EMPTY_PATH | (flags & kSync), a.u32(3), &x) != 0) {
    return -errno;
  }
  auto written = write_user(thread.memory(), a[4], x);
  return written ? 0 : -written.error();
}

std::int64_t check_access(Thread& thread, int dirfd, mm::Gva at, int mode, int flags) {
  if ((mode & ~(R_OK | W_OK | X_OK)) || (flags & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | AT_EACCESS))) return -EINVAL;
  auto& state = state_of(thread);
  auto found = locate(thread, dirfd, at, flags);
  if (!found) return -found.error();
  if (found->synthetic()) {
    if ((mode & W_OK) && !(found->st.st_mode & S_IWUSR)) return -EACCES;
    if ((mode & X_OK) && !S_ISDIR(found->st.st_mode) && !S_ISLNK(found->st.st_mode)) return -EACCES;
    return 0;
  }
  bool writable = found->file ? found->file->writable_mount : state.writable(found->node);
  bool of_share = !found->file || found->file->mount >= 0;
  mode_t type = found->st.st_mode;
  if ((mode & W_OK) && of_share && !writable && (S_ISREG(type) || S_ISDIR(type) || S_ISLNK(type))) return -EROFS;
  if (S_ISLNK(type)) return 0;  // links have no permissions of their own
  const auto who = state.restricting(thread.tid);
  if (who) {
    const Credentials asking = flags & AT_EACCESS ? *who : who->by_real_ids();
    if (int error = refused(&asking, found->st, static_cast<unsigned>(mode))) return -error;
  }
  return result_of(::faccessat(AT_FDCWD, fd_path(found->host()).c_str(), mode, flags & AT_EACCESS));
}

std::int64_t sys_access(Thread& thread, const Args& a) { return check_access(thread, AT_FDCWD, a[0], a.i32(1), 0); }
std::int64_t sys_faccessat(Thread& thread, const Args& a) { return check_access(thread, a.i32(0), a[1], a.i32(2), 0); }
std::int64_t sys_faccessat2(Thread& thread, const Args& a) {
  return check_access(thread, a.i32(0), a[1], a.i32(2), a.i32(3));
}

std::int64_t read_link(Thread& thread, int dirfd, mm::Gva at, mm::Gva out, int size) {
  if (size <= 0) return -EINVAL;
  auto& state = state_of(thread);
  // The empty path names a link that was opened with O_PATH|O_NOFOLLOW.
  auto found = locate(thread, dirfd, at, AT_SYMLINK_NOFOLLOW | (dirfd == AT_FDCWD ? 0 : AT_EMPTY_PATH));
  if (!found) return -found.error();
  if (!S_ISLNK(found->st.st_mode)) return found->file ? -ENOENT : -EINVAL;
  std::string text;
  if (found->synthetic()) {
    auto entry = proc_lookup({state, state.process, thread.tid}, found->path());
    if (!entry) return -ENOENT;
    text = entry->target;
  } else {
    char buffer[PATH_MAX];
    ssize_t n = ::readlinkat(found->host(), "", buffer, sizeof buffer);
    if (n < 0) return -errno;
    text.assign(buffer, static_cast<std::size_t>(n));
  }
  std::size_t length = std::min(text.size(), static_cast<std::size_t>(size));
  if (!thread.memory().write(out, std::as_bytes(std::span(text.data(), length)))) return -EFAULT;
  return static_cast<std::int64_t>(length);
}

std::int64_t sys_readlink(Thread& thread, const Args& a) { return read_link(thread, AT_FDCWD, a[0], a[1], a.i32(2)); }
std::int64_t sys_readlinkat(Thread& thread, const Args& a) { return read_link(thread, a.i32(0), a[1], a[2], a.i32(3)); }

std::int64_t give_statfs(Thread& thread, const Found& found, mm::Gva out) {
  struct statfs fs{};
  if (found.synthetic()) {
    const std::string& path = found.path();
    fs.f_type = path.starts_with("/proc") ? 0x9fa0 : path.starts_with("/sys") ? 0x62656572 : 0x01021994 /* tmpfs */;
    fs.f_bsize = fs.f_frsize = 4096;
    fs.f_namelen = NAME_MAX;
    fs.f_flags = ST_RDONLY;
  } else {
    if (::fstatfs(found.host(), &fs) != 0) return -errno;
    bool writable = found.file ? found.file->writable_mount : state_of(thread).writable(found.node);
    if (!writable) fs.f_flags |= ST_RDONLY;
  }
  auto written = write_user(thread.memory(), out, fs);
  return written ? 0 : -written.error();
}

std::int64_t sys_statfs(Thread& thread, const Args& a) {
  auto found = locate(thread, AT_FDCWD, a[0], 0);
  return found ? give_statfs(thread, *found, a[1]) : -found.error();
}

std::int64_t sys_fstatfs(Thread& thread, const Args& a) {
  Found found;
  found.file = thread.process.files.get(a.i32(0));
  return found.file ? give_statfs(thread, found, a[1]) : -EBADF;
}

}  // namespace

std::span<const Definition> stat_calls() {
  static constexpr Definition kCalls[] = {
      {Call::stat, sys_stat},           {Call::fstat, sys_fstat},
      {Call::lstat, sys_lstat},         {Call::newfstatat, sys_newfstatat},
      {Call::statx, sys_statx},         {Call::access, sys_access},
      {Call::faccessat, sys_faccessat}, {Call::faccessat2, sys_faccessat2},
      {Call::readlink, sys_readlink},   {Call::readlinkat, sys_readlinkat},
      {Call::statfs, sys_statfs},       {Call::fstatfs, sys_fstatfs},
  };
  return kCalls;
}

}  // namespace ramet::vmm
