// What changes the tree: names (mkdir, unlink, rename, link, ...) and attributes (chmod, chown, utimens).
// Everything below a share that is not writable answers EROFS; mount points and their parents stay.
#include <linux/capability.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>
#include <utime.h>

#include <cerrno>

#include "vmm/linux/files/state.hpp"
#include "vmm/linux/processes/process.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/time/guest_time.hpp"

namespace ramet::vmm {
namespace {

// A guest must not leave programs behind that the host's users would run with the VMM's rights.
mode_t harmless(mode_t mode, bool directory) { return mode & (directory ? 07777 : 01777); }

std::shared_ptr<const Credentials> restricting(Thread& thread) { return state_of(thread).restricting(thread.tid); }

OrErrno<Parent> parent_of(Thread& thread, int dirfd, const std::string& path) {
  auto from = state_of(thread).base(dirfd, path);
  return from ? state_of(thread).parent(*from, path, thread.tid) : err(from.error());
}
OrErrno<Parent> parent_for(Thread& thread, int dirfd, mm::Gva at) {
  auto path = read_user_path(thread.memory(), at);
  return path ? parent_of(thread, dirfd, *path) : err(path.error());
}

bool plain(const Parent& p) { return !p.name.empty() && p.name != "." && p.name != ".."; }
std::string guest_path(const Parent& p) { return join(p.dir.path, p.name); }
// The host never follows a last component in the calls below; the slash lets it insist on a directory.
std::string host_name(const Parent& p) { return p.slash ? p.name + "/" : p.name; }

// Whether the name may be created: 0 or -errno. EEXIST takes precedence over other errors: mkdir -p relies on it.
std::int64_t check_new(Thread& thread, const Parent& p) {
  if (!plain(p)) return -EEXIST;
  auto there = state_of(thread).find(p.dir, p.name, false, thread.tid);
  if (there) return -EEXIST;
  if (there.error() != ENOENT) return -there.error();
  if (!p.dir.fd) return -EACCES;
  if (!state_of(thread).writable(p.dir)) return -EROFS;
  if (forbidden_filesystem(p.dir.fd->get())) return -EACCES;
  return -refused(restricting(thread).get(), p.dir, W_OK | X_OK);
}

// Creates the name by `make` (0 or -errno) and chowns the file to the thread's ids if they are restricted. If that
// fails, the name is removed again.
template <class Make>
std::int64_t make_in(Thread& thread, const Parent& p, int remove_flags, Make make) {
  const auto who = restricting(thread);
  if (!who) return make();
  LockGuard guard(*state_of(thread).naming);
  if (std::int64_t bad = make()) return bad;
  const int dir = p.dir.fd->get();
  struct stat directory;
  const HostFd made(::openat(dir, p.name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  int error = !made || ::fstat(dir, &directory) != 0 ? errno : give_to(who.get(), made.get(), directory);
  if (error) ::unlinkat(dir, p.name.c_str(), remove_flags);
  return -error;
}

// Whether the name may be removed or renamed: 0 or -errno.
std::int64_t check_old(Thread& thread, const Parent& p) {
  if (!p.dir.fd || state_of(thread).fixed(guest_path(p))) {
    auto there = state_of(thread).find(p.dir, p.name, false, thread.tid);
    if (!there) return -there.error();
    return state_of(thread).fixed(guest_path(p)) ? -EBUSY : -EPERM;
  }
  if (!state_of(thread).writable(p.dir)) return -EROFS;
  if (forbidden_filesystem(p.dir.fd->get())) return -EACCES;
  const auto who = restricting(thread);
  if (!who) return 0;
  auto there = state_of(thread).find(p.dir, p.name, false, thread.tid);
  return there ? -refused_removal(who.get(), p.dir, there->st) : -there.error();
}

// Held over removing and renaming; locked only for a thread with other ids than the VMM's, see Files::State::naming.
std::unique_lock<std::mutex> lock_names(Thread& thread) {
  return restricting(thread) ? std::unique_lock(*state_of(thread).naming) : std::unique_lock<std::mutex>();
}

std::int64_t make_directory(Thread& thread, int dirfd, mm::Gva at, mode_t mode) {
  auto p = parent_for(thread, dirfd, at);
  if (!p) return -p.error();
  if (std::int64_t bad = check_new(thread, *p)) return bad;
  mode = state_of(thread).masked(mode & 01777);
  return make_in(thread, *p, AT_REMOVEDIR, [&]() -> std::int64_t {
    if (::mkdirat(p->dir.fd->get(), p->name.c_str(), mode) != 0) return -errno;
    if (mode & state_of(thread).host_umask()) {
      // The host's umask took off more than the guest's. A directory that cannot have its mode is not made.
      auto made = state_of(thread).find(p->dir, p->name, false, thread.tid);
      int error = made ? 0 : made.error();
      if (made && made->node.fd && S_ISDIR(made->st.st_mode) &&
          ::chmod(fd_path(made->node.fd->get()).c_str(), mode) != 0)
        error = errno;
      if (error) {
        ::unlinkat(p->dir.fd->get(), p->name.c_str(), AT_REMOVEDIR);
        return -error;
      }
    }
    return 0;
  });
}

std::int64_t remove_name(Thread& thread, int dirfd, mm::Gva at, bool directory) {
  auto p = parent_for(thread, dirfd, at);
  if (!p) return -p.error();
  if (!plain(*p)) {
    if (!directory) return -EISDIR;
    return p->name == "." ? -EINVAL : p->name == ".." ? -ENOTEMPTY : -EBUSY;
  }
  const auto guard = lock_names(thread);
  if (std::int64_t bad = check_old(thread, *p)) return bad;
  return result_of(::unlinkat(p->dir.fd->get(), host_name(*p).c_str(), directory ? AT_REMOVEDIR : 0));
}

// What a rename needs of restricted ids beyond check_old(): 0 or -errno.
std::int64_t check_rename(Thread& thread, const Parent& from, const Parent& to, bool exchange) {
  const auto who = restricting(thread);
  if (!who) return 0;
  const auto& state = state_of(thread);
  if (int error = refused(who.get(), to.dir, W_OK | X_OK)) return -error;
  struct stat old_dir, new_dir;
  if (!to.dir.fd || ::fstat(from.dir.fd->get(), &old_dir) != 0 || ::fstat(to.dir.fd->get(), &new_dir) != 0)
    return -EROFS;
  const bool moves = old_dir.st_dev != new_dir.st_dev || old_dir.st_ino != new_dir.st_ino;
  // Moving a directory writes another ".." into it.
  const auto check_parent = [&](const OrErrno<Found>& what) {
    return what && moves && S_ISDIR(what->st.st_mode) ? refused(who.get(), what->st, W_OK) : 0;
  };
  if (int error = check_parent(state.find(from.dir, from.name, false, thread.tid))) return -error;
  auto target = state.find(to.dir, to.name, false, thread.tid);
  if (!target) return target.error() == ENOENT ? 0 : -target.error();
  if (int error = refused_removal(who.get(), to.dir, target->st)) return -error;
  return exchange ? -check_parent(target) : 0;
}

std::int64_t rename_name(Thread& thread, int old_fd, mm::Gva old_at, int new_fd, mm::Gva new_at, unsigned flags) {
  constexpr unsigned kNoReplace = 1, kExchange = 2;  // RENAME_*; RENAME_WHITEOUT makes a device: refused
  if ((flags & ~(kNoReplace | kExchange)) || flags == (kNoReplace | kExchange)) return -EINVAL;
  auto from = parent_for(thread, old_fd, old_at);
  if (!from) return -from.error();
  auto to = parent_for(thread, new_fd, new_at);
  if (!to) return -to.error();
  if (from->dir.mount != to->dir.mount) return -EXDEV;
  if (!plain(*from) || !plain(*to)) return -EBUSY;
  const auto guard = lock_names(thread);
  if (std::int64_t bad = check_old(thread, *from)) return bad;
  if (state_of(thread).fixed(guest_path(*to))) return -EBUSY;
  if (std::int64_t bad = check_rename(thread, *from, *to, flags & kExchange)) return bad;
  return result_of(::syscall(SYS_renameat2, from->dir.fd->get(), host_name(*from).c_str(), to->dir.fd->get(),
                             host_name(*to).c_str(), flags));
}

std::int64_t link_name(Thread& thread, int old_fd, mm::Gva old_at, int new_fd, mm::Gva new_at, int flags) {
  if (flags & ~(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH)) return -EINVAL;
  auto found = locate(thread, old_fd, old_at,
                      (flags & AT_EMPTY_PATH) | (flags & AT_SYMLINK_FOLLOW ? 0 : AT_SYMLINK_NOFOLLOW));
  if (!found) return -found.error();
  auto to = parent_for(thread, new_fd, new_at);
  if (!to) return -to.error();
  if (std::int64_t bad = check_new(thread, *to)) return bad;
  if ((found->file ? found->file->mount : found->node.mount) != to->dir.mount) return -EXDEV;
  if (S_ISDIR(found->st.st_mode)) return -EPERM;
  if (const auto who = restricting(thread); who && !owns(*who, found->st.st_uid)) {  // as with fs.protected_hardlinks
    if (!S_ISREG(found->st.st_mode) || refused(who.get(), found->st, R_OK | W_OK)) return -EPERM;
  }
  const auto guard = lock_names(thread);
  return result_of(
      ::linkat(AT_FDCWD, fd_path(found->host()).c_str(), to->dir.fd->get(), host_name(*to).c_str(), AT_SYMLINK_FOLLOW));
}

std::int64_t symbolic_link(Thread& thread, mm::Gva text_at, int dirfd, mm::Gva at) {
  auto text = read_user_path(thread.memory(), text_at);
  if (!text) return -text.error();
  if (text->empty()) return -ENOENT;
  auto p = parent_for(thread, dirfd, at);
  if (!p) return -p.error();
  if (std::int64_t bad = check_new(thread, *p)) return bad;
  return make_in(thread, *p, 0,
                 [&] { return result_of(::symlinkat(text->c_str(), p->dir.fd->get(), host_name(*p).c_str())); });
}

std::int64_t make_node(Thread& thread, int dirfd, mm::Gva at, mode_t mode) {
  mode_t type = mode & S_IFMT;
  if (type == S_IFDIR) return -EPERM;
  if (type != 0 && type != S_IFREG && type != S_IFIFO && type != S_IFSOCK && type != S_IFCHR && type != S_IFBLK)
    return -EINVAL;
  auto p = parent_for(thread, dirfd, at);
  if (!p) return -p.error();
  if (std::int64_t bad = check_new(thread, *p)) return bad;
  if (type == S_IFCHR || type == S_IFBLK) return -EPERM;
  if (p->slash) return -ENOENT;
  mode_t bits = state_of(thread).masked(harmless(mode, false));
  return make_in(thread, *p, 0, [&] {
    return result_of(::mknodat(p->dir.fd->get(), p->name.c_str(), (type ? type : S_IFREG) | bits, 0));
  });
}

// Whether the object's attributes may be changed: 0 or -errno.
std::int64_t check_change(Thread& thread, const Found& found) {
  if (found.synthetic()) return -EPERM;
  if (!found.file) return state_of(thread).writable(found.node) ? 0 : -EROFS;
  using enum OpenFile::Kind;
  // The host's own files and devices are lent for reading and writing, no more.
  if (found.file->kind == Stdio || found.file->kind == Device) return -EPERM;
  if (found.file->writable_mount) return 0;
  // Two kinds of files are in no share: the guest's own pipes and the like, and its program, which belongs to the host.
  return found.file->mount < 0 && found.file->kind != File ? 0 : -EROFS;
}

OrErrno<Found> file_found(Thread& thread, int fd) {
  Found found;
  found.file = thread.process.files.get(fd);
  if (!found.file || (found.file->flags & O_PATH)) return err(EBADF);
  auto st = stat_of(state_of(thread), *found.file);
  if (!st) return err(st.error());
  found.st = *st;
  return found;
}

std::int64_t change_mode(Thread& thread, const OrErrno<Found>& found, mode_t mode) {
  if (!found) return -found.error();
  if (std::int64_t bad = check_change(thread, *found)) return bad;
  if (S_ISLNK(found->st.st_mode)) return -EOPNOTSUPP;
  if (const auto who = restricting(thread)) {
    if (!owns(*who, found->st.st_uid)) return -EPERM;
    if (!who->in_group(found->st.st_gid) && !who->may(CAP_FSETID)) mode &= ~static_cast<mode_t>(S_ISGID);
  }
  return result_of(::chmod(fd_path(found->host()).c_str(), harmless(mode & 07777, S_ISDIR(found->st.st_mode))));
}

constexpr unsigned kSame = static_cast<unsigned>(-1);

std::int64_t change_owner(Thread& thread, const OrErrno<Found>& found, unsigned uid, unsigned gid) {
  if (!found) return -found.error();
  if (std::int64_t bad = check_change(thread, *found)) return bad;
  if (const auto who = restricting(thread); who && !who->may(CAP_CHOWN)) {
    const struct stat& st = found->st;
    const bool own = who->user.file == st.st_uid;
    if (uid != kSame && !(own && uid == st.st_uid)) return -EPERM;
    if (gid != kSame && !(own && (gid == st.st_gid || who->in_group(gid)))) return -EPERM;
  }
  return result_of(::fchownat(found->host(), "", uid, gid, AT_EMPTY_PATH));
}

std::int64_t change_times(Thread& thread, const OrErrno<Found>& found, const timespec* times) {
  if (!found) return -found.error();
  if (std::int64_t bad = check_change(thread, *found)) return bad;
  if (const auto who = restricting(thread); who && !owns(*who, found->st.st_uid)) {
    const auto both = [&](long what) { return times[0].tv_nsec == what && times[1].tv_nsec == what; };
    const bool now = !times || both(UTIME_NOW);
    if (now && refused(who.get(), found->st, W_OK)) return -EACCES;
    if (!now && !both(UTIME_OMIT)) return -EPERM;
  }
  if (S_ISLNK(found->st.st_mode)) return result_of(::utimensat(found->host(), "", times, AT_EMPTY_PATH));
  return result_of(::utimensat(AT_FDCWD, fd_path(found->host()).c_str(), times, 0));
}

std::int64_t sys_mkdir(Thread& thread, const Args& a) { return make_directory(thread, AT_FDCWD, a[0], a.u32(1)); }
std::int64_t sys_mkdirat(Thread& thread, const Args& a) { return make_directory(thread, a.i32(0), a[1], a.u32(2)); }
std::int64_t sys_rmdir(Thread& thread, const Args& a) { return remove_name(thread, AT_FDCWD, a[0], true); }
std::int64_t sys_unlink(Thread& thread, const Args& a) { return remove_name(thread, AT_FDCWD, a[0], false); }
std::int64_t sys_unlinkat(Thread& thread, const Args& a) {
  if (a.i32(2) & ~AT_REMOVEDIR) return -EINVAL;
  return remove_name(thread, a.i32(0), a[1], a.i32(2) & AT_REMOVEDIR);
}
std::int64_t sys_rename(Thread& thread, const Args& a) {
  return rename_name(thread, AT_FDCWD, a[0], AT_FDCWD, a[1], 0);
}
std::int64_t sys_renameat(Thread& thread, const Args& a) {
  return rename_name(thread, a.i32(0), a[1], a.i32(2), a[3], 0);
}
std::int64_t sys_renameat2(Thread& thread, const Args& a) {
  return rename_name(thread, a.i32(0), a[1], a.i32(2), a[3], a.u32(4));
}
std::int64_t sys_link(Thread& thread, const Args& a) { return link_name(thread, AT_FDCWD, a[0], AT_FDCWD, a[1], 0); }
std::int64_t sys_linkat(Thread& thread, const Args& a) {
  return link_name(thread, a.i32(0), a[1], a.i32(2), a[3], a.i32(4));
}
std::int64_t sys_symlink(Thread& thread, const Args& a) { return symbolic_link(thread, a[0], AT_FDCWD, a[1]); }
std::int64_t sys_symlinkat(Thread& thread, const Args& a) { return symbolic_link(thread, a[0], a.i32(1), a[2]); }
std::int64_t sys_mknod(Thread& thread, const Args& a) { return make_node(thread, AT_FDCWD, a[0], a.u32(1)); }
std::int64_t sys_mknodat(Thread& thread, const Args& a) { return make_node(thread, a.i32(0), a[1], a.u32(2)); }

std::int64_t sys_chmod(Thread& thread, const Args& a) {
  return change_mode(thread, locate(thread, AT_FDCWD, a[0], 0), a.u32(1));
}
std::int64_t sys_fchmod(Thread& thread, const Args& a) {
  return change_mode(thread, file_found(thread, a.i32(0)), a.u32(1));
}
std::int64_t sys_fchmodat(Thread& thread, const Args& a) {
  return change_mode(thread, locate(thread, a.i32(0), a[1], 0), a.u32(2));
}
std::int64_t sys_fchmodat2(Thread& thread, const Args& a) {
  if (a.i32(3) & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)) return -EINVAL;
  return change_mode(thread, locate(thread, a.i32(0), a[1], a.i32(3)), a.u32(2));
}
std::int64_t sys_chown(Thread& thread, const Args& a) {
  return change_owner(thread, locate(thread, AT_FDCWD, a[0], 0), a.u32(1), a.u32(2));
}
std::int64_t sys_lchown(Thread& thread, const Args& a) {
  return change_owner(thread, locate(thread, AT_FDCWD, a[0], AT_SYMLINK_NOFOLLOW), a.u32(1), a.u32(2));
}
std::int64_t sys_fchown(Thread& thread, const Args& a) {
  return change_owner(thread, file_found(thread, a.i32(0)), a.u32(1), a.u32(2));
}
std::int64_t sys_fchownat(Thread& thread, const Args& a) {
  if (a.i32(4) & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)) return -EINVAL;
  return change_owner(thread, locate(thread, a.i32(0), a[1], a.i32(4)), a.u32(2), a.u32(3));
}

std::int64_t sys_utimensat(Thread& thread, const Args& a) {
  if (a.i32(3) & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)) return -EINVAL;
  OrErrno<std::array<timespec, 2>> times;
  if (a[2]) times = read_user<std::array<timespec, 2>>(thread.memory(), a[2]);
  if (!times) return -times.error();
  // A null path means the descriptor itself.
  auto found = a[1] == 0 && a.i32(0) != AT_FDCWD ? file_found(thread, a.i32(0))
                                                 : locate(thread, a.i32(0), a[1], a.i32(3));
  return change_times(thread, found, a[2] ? times->data() : nullptr);
}

std::int64_t times_of_day(Thread& thread, int dirfd, mm::Gva path, mm::Gva at) {
  OrErrno<std::array<timeval, 2>> given;
  if (at) given = read_user<std::array<timeval, 2>>(thread.memory(), at);
  if (!given) return -given.error();
  std::array<timespec, 2> times{};
  for (std::size_t i = 0; at && i < 2; ++i) {
    auto time = to_timespec((*given)[i]);
    if (!time) return -time.error();
    times[i] = *time;
  }
  auto found = path == 0 && dirfd != AT_FDCWD ? file_found(thread, dirfd) : locate(thread, dirfd, path, 0);
  return change_times(thread, found, at ? times.data() : nullptr);
}

std::int64_t sys_utimes(Thread& thread, const Args& a) { return times_of_day(thread, AT_FDCWD, a[0], a[1]); }
std::int64_t sys_futimesat(Thread& thread, const Args& a) { return times_of_day(thread, a.i32(0), a[1], a[2]); }
std::int64_t sys_utime(Thread& thread, const Args& a) {
  OrErrno<utimbuf> given;
  if (a[1]) given = read_user<utimbuf>(thread.memory(), a[1]);
  if (!given) return -given.error();
  timespec times[2] = {{given->actime, 0}, {given->modtime, 0}};
  return change_times(thread, locate(thread, AT_FDCWD, a[0], 0), a[1] ? times : nullptr);
}

// Extended attributes: none here, as on a file system without them.
std::int64_t no_attributes(Thread&, const Args&) { return -EOPNOTSUPP; }

}  // namespace

std::int64_t with_socket_node(Thread& thread, const std::string& path,
                              const std::function<std::int64_t(HostFd)>& bind) {
  auto p = parent_of(thread, AT_FDCWD, path);
  if (!p) return -p.error();
  if (std::int64_t bad = check_new(thread, *p)) return bad;
  if (p->slash) return -ENOENT;
  const int dir = p->dir.fd->get();
  if (std::int64_t bad = make_in(thread, *p, 0, [&] {
        return result_of(::mknodat(dir, p->name.c_str(), S_IFSOCK | state_of(thread).masked(0777), 0));
      }))
    return bad;
  HostFd node(::openat(dir, p->name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  std::int64_t r = node ? 0 : -errno;
  struct stat st{}, now{};
  if (node && ::fstat(node.get(), &st) == 0 && !S_ISSOCK(st.st_mode)) return -EEXIST;  // somebody was quicker
  if (node) r = bind(std::move(node));
  if (r == 0 || ::fstatat(dir, p->name.c_str(), &now, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISSOCK(now.st_mode)) return r;
  const bool ours = !st.st_ino || (now.st_dev == st.st_dev && now.st_ino == st.st_ino);  // the name still leads to it
  if (ours) ::unlinkat(dir, p->name.c_str(), 0);
  return r;
}

std::span<const Definition> change_calls() {
  static constexpr Definition kCalls[] = {
      {Call::mkdir, sys_mkdir},
      {Call::mkdirat, sys_mkdirat},
      {Call::rmdir, sys_rmdir},
      {Call::unlink, sys_unlink},
      {Call::unlinkat, sys_unlinkat},
      {Call::rename, sys_rename},
      {Call::renameat, sys_renameat},
      {Call::renameat2, sys_renameat2},
      {Call::link, sys_link},
      {Call::linkat, sys_linkat},
      {Call::symlink, sys_symlink},
      {Call::symlinkat, sys_symlinkat},
      {Call::mknod, sys_mknod},
      {Call::mknodat, sys_mknodat},
      {Call::chmod, sys_chmod},
      {Call::fchmod, sys_fchmod},
      {Call::fchmodat, sys_fchmodat},
      {Call::fchmodat2, sys_fchmodat2},
      {Call::chown, sys_chown},
      {Call::fchown, sys_fchown},
      {Call::lchown, sys_lchown},
      {Call::fchownat, sys_fchownat},
      {Call::utimensat, sys_utimensat},
      {Call::utime, sys_utime},
      {Call::utimes, sys_utimes},
      {Call::futimesat, sys_futimesat},
      {Call::setxattr, no_attributes},
      {Call::lsetxattr, no_attributes},
      {Call::fsetxattr, no_attributes},
      {Call::getxattr, no_attributes},
      {Call::lgetxattr, no_attributes},
      {Call::fgetxattr, no_attributes},
      {Call::listxattr, no_attributes},
      {Call::llistxattr, no_attributes},
      {Call::flistxattr, no_attributes},
      {Call::removexattr, no_attributes},
      {Call::lremovexattr, no_attributes},
      {Call::fremovexattr, no_attributes},
  };
  return kCalls;
}

}  // namespace ramet::vmm
