// Directories: listings, and the working directory.
//
// The host's own entries come first, with the host's offsets, so that nothing is kept between calls. Then
// come the extra ones (mount points, /proc, /sys, /dev and the parents of mount points), at offsets from
// kExtraEntries on, past any that a file system uses. Host entries of the same names are left out.
#include <dirent.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "vmm/linux/files/state.hpp"
#include "vmm/linux/files/synthetic.hpp"
#include "vmm/linux/processes/process.hpp"
#include "vmm/linux/processes/thread.hpp"

namespace ramet::vmm {
namespace {

// struct linux_dirent64 without its name.
struct Head {
  std::uint64_t ino;
  std::int64_t off;
  std::uint16_t reclen;
  unsigned char type;
} __attribute__((packed));
constexpr std::size_t kNameAt = 19;
static_assert(sizeof(Head) == kNameAt);

// Appends one entry in either of the two layouts; false if it does not fit.
struct Output {
  std::vector<char> bytes;
  std::size_t room;
  bool old_layout;  // getdents: no type after reclen, but in the record's last byte
  bool add(std::uint64_t ino, std::int64_t off, unsigned char type, std::string_view name) {
    std::size_t fixed = old_layout ? 18 + 2 : kNameAt + 1;
    std::size_t length = (fixed + name.size() + 7) & ~std::size_t{7};
    if (length > room - bytes.size()) return false;
    std::vector<char> record(length);
    auto reclen = static_cast<std::uint16_t>(length);
    std::memcpy(record.data(), &ino, 8);
    std::memcpy(record.data() + 8, &off, 8);
    std::memcpy(record.data() + 16, &reclen, 2);
    std::size_t name_at = old_layout ? 18 : kNameAt;
    record[old_layout ? length - 1 : 18] = static_cast<char>(type);
    std::memcpy(record.data() + name_at, name.data(), name.size());
    bytes.insert(bytes.end(), record.begin(), record.end());
    return true;
  }
};

// Entries of the directory that the host does not have.
std::vector<ProcName> extra_names(const Files::State& state, const OpenFile& directory, int tid) {
  std::vector<ProcName> names;
  if (directory.synthetic) {
    names = proc_list({state, state.process, tid}, directory.path);
    names.insert(names.begin(), {{".", DT_DIR, 1}, {"..", DT_DIR, 2}});  // the list's own keys begin at 3
  }
  if (!state.mounts_below(directory.path)) return names;
  std::uint64_t next = names.empty() ? 1 : names.back().key + 1;
  auto add = [&](std::string_view path) {
    std::string below = directory.path == "/" ? "/" : directory.path + "/";
    if (path.size() <= below.size() || !path.starts_with(below)) return;
    std::string name(path.substr(below.size(), path.find('/', below.size()) - below.size()));
    if (std::ranges::find(names, name, &ProcName::name) == names.end()) names.push_back({name, DT_DIR, next++});
  };
  for (std::string_view path : {"/proc", "/sys", "/dev"}) add(path);
  for (const Mount& m : state.mounts) add(m.guest);
  return names;
}

// Copies the host's entries from the offset of its descriptor. Returns false at the end of the directory.
OrErrno<bool> host_entries(const OpenFile& directory, const std::vector<ProcName>& hidden, Output& out) {
  std::vector<char> buffer(std::min<std::size_t>(out.room - out.bytes.size(), 32768));
  // At least one entry of any name must fit, or the host says EINVAL, which is the guest's error then.
  long n = ::syscall(SYS_getdents64, directory.host.get(), buffer.data(), buffer.size());
  if (n < 0) return err(errno);
  if (n == 0) return false;
  for (long at = 0; at < n;) {
    Head head;
    std::memcpy(&head, buffer.data() + at, sizeof head);
    const char* name = buffer.data() + at + kNameAt;
    at += head.reclen;
    if (std::ranges::find(hidden, std::string_view(name), &ProcName::name) != hidden.end()) continue;
    // The old layout takes as much room as the new one, or less: it fits.
    (void)out.add(head.ino, head.off, head.type, name);
  }
  return true;
}

std::int64_t list(Thread& thread, const Args& a, bool old_layout) {
  auto& state = state_of(thread);
  auto file = state.get(a.i32(0));
  if (!file || (file->flags & O_PATH)) return -EBADF;
  if (file->kind != OpenFile::Kind::Directory) return -ENOTDIR;
  Output out{{}, std::min<std::size_t>(a.u32(2), 1 << 20), old_layout};
  std::vector<ProcName> extra = extra_names(state, *file, thread.tid);
  LockGuard guard(file->listing->lock);
  std::uint64_t& position = file->listing->position;
  if (!file->synthetic && position == 0) {
    for (;;) {
      auto more = host_entries(*file, extra, out);
      if (!more) return -more.error();
      if (!*more) break;
      if (!out.bytes.empty()) break;  // all of them hidden: go on
    }
  }
  if (out.bytes.empty()) {
    for (const ProcName& name : extra) {
      if (name.key <= position) continue;
      std::uint64_t ino = std::hash<std::string>{}(join(file->path, name.name)) | 1;
      if (!out.add(ino, static_cast<std::int64_t>(kExtraEntries + name.key), name.type, name.name)) {
        if (out.bytes.empty()) return -EINVAL;
        break;
      }
      position = name.key;
    }
  }
  if (!thread.memory().write(a[1], std::as_bytes(std::span(out.bytes)))) return -EFAULT;
  return static_cast<std::int64_t>(out.bytes.size());
}

std::int64_t sys_getdents64(Thread& thread, const Args& a) { return list(thread, a, false); }
std::int64_t sys_getdents(Thread& thread, const Args& a) { return list(thread, a, true); }

std::int64_t sys_getcwd(Thread& thread, const Args& a) {
  auto& state = state_of(thread);
  auto path = state.current_path(state.node_of(state.working_directory()));
  if (!path) return -path.error();
  std::size_t length = path->size() + 1;
  if (length > a[1]) return -ERANGE;
  if (!thread.memory().write(a[0], std::as_bytes(std::span(path->c_str(), length)))) return -EFAULT;
  return static_cast<std::int64_t>(length);
}

std::int64_t enter(Files::State& state, Found& found, const Credentials* who) {
  if (!S_ISDIR(found.st.st_mode)) return -ENOTDIR;
  if (int error = refused(who, found.st, X_OK); error && !found.synthetic()) return -error;
  std::shared_ptr<OpenFile> directory = found.file;
  if (!directory) {
    if (found.node.fd && ::faccessat(AT_FDCWD, fd_path(found.node.fd->get()).c_str(), X_OK, AT_EACCESS) != 0)
      return -errno;
    auto opened = state.open_found(nullptr, found, O_PATH | O_DIRECTORY, 0);
    if (!opened) return -opened.error();
    directory = std::move(*opened);
  }
  LockGuard guard(state.lock);
  std::swap(state.cwd, directory);
  return 0;
}

std::int64_t sys_chdir(Thread& thread, const Args& a) {
  auto& state = state_of(thread);
  auto found = locate(thread, AT_FDCWD, a[0], 0);
  if (!found) return -found.error();
  return enter(state, *found, state.restricting(thread.tid).get());
}

std::int64_t sys_fchdir(Thread& thread, const Args& a) {
  auto& state = state_of(thread);
  auto file = state.get(a.i32(0));
  if (!file) return -EBADF;
  if (file->kind != OpenFile::Kind::Directory) return -ENOTDIR;
  Found found;
  found.file = std::move(file);
  auto st = stat_of(state, *found.file);
  if (!st) return -st.error();
  found.st = *st;
  return enter(state, found, state.restricting(thread.tid).get());
}

std::int64_t sys_chroot(Thread&, const Args&) { return -EPERM; }

}  // namespace

std::span<const Definition> directory_calls() {
  static constexpr Definition kCalls[] = {
      {Call::getdents64, sys_getdents64}, {Call::getdents, sys_getdents}, {Call::getcwd, sys_getcwd},
      {Call::chdir, sys_chdir},           {Call::fchdir, sys_fchdir},     {Call::chroot, sys_chroot},
  };
  return kCalls;
}

bool Files::enter_directory(const std::string& guest_path) {
  auto found = state_->find(state_->root(), guest_path, true, 0);
  return found && enter(*state_, *found, nullptr) == 0;
}

}  // namespace ramet::vmm
