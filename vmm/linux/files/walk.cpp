// Path resolution: from a guest path to a host object, never out of what was shared.
//
// A path is walked component by component. Each step is one openat2(2) of a single name below the
// directory at hand (RESOLVE_BENEATH, O_NOFOLLOW), so the host never interprets "..", a symbolic link or an
// absolute path for us:
//   name    a mount point of that guest path, else /proc, /sys, /dev, else what the host has, else a parent
//           of mount points
//   link    its text goes in front of the rest of the path; from the guest's root if absolute
//   ".."    the parent by guest path, resolved anew from its share without following any link
// Where nothing of this can matter (no "..", all in one share), one openat2 with RESOLVE_NO_SYMLINKS does
// the whole path; what it refuses is walked.
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>

#include "vmm/linux/files/state.hpp"
#include "vmm/linux/files/synthetic.hpp"

namespace ramet::vmm {
namespace {

constexpr int kMaxLinks = 40;  // as Linux

OrErrno<std::shared_ptr<HostFd>> open_beneath(int directory, const char* path, int flags, std::uint64_t resolve) {
  open_how how{};
  how.flags = static_cast<std::uint64_t>(flags | O_PATH | O_NOFOLLOW | O_CLOEXEC);
  how.resolve = resolve | RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  // After a concurrent rename the host may not know that the path stays beneath; without links and ".." it does.
  constexpr int kTries = 64;
  HostFd fd;
  for (int i = 0; i < kTries && !fd; ++i) {
    fd = HostFd(static_cast<int>(::syscall(SYS_openat2, directory, path, &how, sizeof how)));
    if (!fd && errno != EXDEV && errno != EAGAIN) break;
  }
  if (!fd) return err(errno);
  return std::make_shared<HostFd>(std::move(fd));
}

OrErrno<std::string> link_text(int directory, const char* name) {
  char text[PATH_MAX];
  ssize_t n = ::readlinkat(directory, name, text, sizeof text);
  if (n < 0) return err(errno);
  if (n == 0) return err(ENOENT);
  if (n == sizeof text) return err(ENAMETOOLONG);
  return std::string(text, static_cast<std::size_t>(n));
}

bool has_dot_dot(std::string_view path) {
  for (std::size_t at = 0; (at = path.find("..", at)) != path.npos; ++at)
    if ((at == 0 || path[at - 1] == '/') && (at + 2 == path.size() || path[at + 2] == '/')) return true;
  return false;
}

bool synthetic_root(std::string_view path) { return path == "/proc" || path == "/sys" || path == "/dev"; }

ProcEntry directory_entry() { return {.type = ProcEntry::Type::Directory, .target = {}, .file = nullptr}; }

Node synthetic_node(std::string path) {
  Node n;
  n.path = std::move(path);
  return n;
}

// A directory that a walk may go on from.
OrErrno<Node> directory_node(const std::shared_ptr<OpenFile>& file) {
  if (file->kind != OpenFile::Kind::Directory) return err(ENOTDIR);
  return Files::State::node_of(file);
}

// The node with its attributes. Errors: EACCES (on a file system that leads to the kernel), those of fstat(2).
OrErrno<Found> found_node(const Files::State& state, Node node, const ProcEntry* entry) {
  Found found;
  if (!node.fd) {
    found.st = proc_stat(node.path, entry ? *entry : directory_entry());
  } else {
    if (::fstat(node.fd->get(), &found.st) != 0) return err(errno);
    if (state.forbidden(node, found.st)) return err(EACCES);
  }
  found.node = std::move(node);
  return found;
}

// Mounts live as long as the files of the guest: nothing to own.
Node mount_node(const Files::State& state, int m) {
  const Mount& mount = state.mounts[static_cast<std::size_t>(m)];
  return {std::shared_ptr<const HostFd>(std::shared_ptr<void>(), &mount.directory()), m, mount.guest};
}

struct Step {
  Node node;                        // unless `link` or `file`
  std::optional<ProcEntry> entry;   // of synthetic nodes
  std::optional<std::string> link;
  std::shared_ptr<OpenFile> file;   // a magic link of /proc
  bool directory = false;
};

// One name below `at`. `last`: the object itself, links included; else a directory is wanted.
OrErrno<Step> step(const Files::State& state, const Node& at, const std::string& name, bool last, bool follow,
                   int tid) {
  Step result;
  std::string path = join(at.path, name);
  if (int m = state.mount_at(path); m >= 0) {
    result.node = mount_node(state, m);
    result.directory = true;
    return result;
  }
  if (!at.fd || synthetic_root(path)) {
    ProcContext context{state, state.process, tid};
    auto entry = proc_lookup(context, path);
    if (!entry && state.mounts_below(path)) entry = directory_entry();
    if (!entry) return err(ENOENT);
    bool through = !last || follow;
    if (entry->type == ProcEntry::Type::OpenFile && through) {
      result.file = entry->file;
    } else if (entry->type == ProcEntry::Type::Executable && through) {
      result.file = entry->file;
      if (!result.file) result.link = entry->target;
    } else if (entry->type == ProcEntry::Type::Link && through) {
      result.link = entry->target;
    }
    result.directory = entry->type == ProcEntry::Type::Directory;
    result.node = synthetic_node(path);
    result.entry = std::move(entry);
    return result;
  }
  auto fd = open_beneath(at.fd->get(), name.c_str(), last ? 0 : O_DIRECTORY, 0);
  if (fd) {
    result.node = {*fd, at.mount, path};
    if (!last) {
      result.directory = true;
      return result;
    }
    struct stat st;
    if (::fstat((*fd)->get(), &st) != 0) return err(errno);
    result.directory = S_ISDIR(st.st_mode);
    if (!S_ISLNK(st.st_mode) || !follow) return result;
    if (state.forbidden(result.node, st)) return err(EACCES);
    auto text = link_text((*fd)->get(), "");
    if (!text) return err(text.error());
    result.link = std::move(*text);
    return result;
  }
  if (fd.error() == ENOENT && state.mounts_below(path)) {
    result.node = synthetic_node(path);
    result.entry = directory_entry();
    result.directory = true;
    return result;
  }
  if (fd.error() != ENOTDIR || last) return err(fd.error());
  if (forbidden_filesystem(at.fd->get())) return err(EACCES);
  auto text = link_text(at.fd->get(), name.c_str());
  if (!text) return err(text.error() == EINVAL ? ENOTDIR : text.error());
  result.link = std::move(*text);
  return result;
}

// A directory by its normalised guest path, following nothing.
OrErrno<Node> direct(const Files::State& state, const std::string& path) {
  int m = state.covering_mount(path);
  if (m < 0) return synthetic_node(path);
  const Mount& mount = state.mounts[static_cast<std::size_t>(m)];
  std::string rest = path.substr(mount.guest.size());
  if (rest.starts_with('/')) rest.erase(0, 1);
  if (rest.empty()) return mount_node(state, m);
  auto fd = open_beneath(mount.directory().get(), rest.c_str(), O_DIRECTORY, RESOLVE_NO_SYMLINKS);
  if (!fd) {
    if (fd.error() == ENOENT && state.mounts_below(path)) return synthetic_node(path);
    return err(fd.error() == ELOOP ? ENOENT : fd.error());
  }
  return Node{*fd, m, path};
}

// The parent of a directory that was removed, which the host still knows. It is valid if the nearest ancestor that was
// not removed lies in the share: then so did all below it.
OrErrno<Node> parent_of_removed(const Files::State& state, const Node& node) {
  std::optional<Node> parent;
  std::shared_ptr<const HostFd> at = node.fd;
  for (;;) {
    auto up = std::make_shared<HostFd>(::openat(at->get(), "..", O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!*up) return err(errno);
    Node above{std::move(up), node.mount, node.path.substr(0, std::max<std::size_t>(node.path.rfind('/'), 1)), true};
    at = above.fd;
    if (!parent) parent = above;
    if (auto now = state.current_path(above)) {
      if (parent->fd == above.fd) parent->path = std::move(*now);
      return *parent;
    }
    struct stat st;
    if (::fstat(at->get(), &st) != 0 || st.st_nlink != 0) return err(ENOENT);  // it exists, outside of the share
  }
}

OrErrno<Node> parent_of(const Files::State& state, const Node& node) {
  std::string path = node.path;
  if (node.base) {
    auto now = state.current_path(node);
    struct stat st;
    if (!now && now.error() == ENOENT && node.fd && ::fstat(node.fd->get(), &st) == 0 && st.st_nlink == 0)
      return parent_of_removed(state, node);
    if (!now) return err(now.error());
    path = std::move(*now);
  }
  return direct(state, path == "/" ? "/" : path.substr(0, std::max<std::size_t>(path.rfind('/'), 1)));
}

bool same_place(const Node& a, const Node& b) {
  if (!a.fd || !b.fd) return !a.fd && !b.fd && a.path == b.path;
  struct stat one, other;
  return ::fstat(a.fd->get(), &one) == 0 && ::fstat(b.fd->get(), &other) == 0 && one.st_dev == other.st_dev &&
         one.st_ino == other.st_ino;
}

// What openat2(2) calls a mount: a share, a file system of the host in it, /proc, /sys, /dev, or what lies above them.
bool same_mount(const Node& a, const Node& b) {
  if (a.mount != b.mount || !a.fd != !b.fd) return false;
  struct stat one, other;
  if (a.fd) return ::fstat(a.fd->get(), &one) == 0 && ::fstat(b.fd->get(), &other) == 0 && one.st_dev == other.st_dev;
  const auto system = [](const std::string& path) {
    const std::string first = path.substr(0, path.find('/', 1));
    return synthetic_root(first) ? first : std::string();
  };
  return system(a.path) == system(b.path);
}

}  // namespace

Node Files::State::root() const {
  auto node = direct(*this, "/");
  return node ? *node : synthetic_node("/");
}

Node Files::State::node_of(const std::shared_ptr<OpenFile>& file) {
  Node n;
  n.path = file->path;
  n.base = true;
  if (file->synthetic) return n;
  n.fd = std::shared_ptr<const HostFd>(file, &file->host);  // keeps the file open, whatever becomes of its number
  n.mount = file->mount;
  return n;
}

OrErrno<Node> Files::State::base(int dirfd, const std::string& path) const {
  if (path.starts_with('/')) return root();
  if (dirfd == AT_FDCWD) return node_of(working_directory());
  auto file = get(dirfd);
  if (!file) return err(EBADF);
  return directory_node(file);
}

OrErrno<Found> Files::State::find(const Node& from, const std::string& path, bool follow, int tid) const {
  if (path.empty()) return err(ENOENT);
  if (has_dot_dot(path)) return walk(from, path, follow, tid, nullptr);
  std::string whole = normalised(path.starts_with('/') ? path : from.path + "/" + path);
  int m = covering_mount(whole);
  // Restricted ids are checked for each directory on the way.
  if (m < 0 || restricting(tid) || (from.mount < 0 && !path.starts_with('/') && from.fd))
    return walk(from, path, follow, tid, nullptr);
  int directory;
  std::string rest;
  if (!path.starts_with('/') && from.mount == m && from.fd) {
    directory = from.fd->get();
    rest = path;
  } else {
    const Mount& mount = mounts[static_cast<std::size_t>(m)];
    directory = mount.directory().get();
    rest = whole.substr(mount.guest.size());
    if (rest.starts_with('/')) rest.erase(0, 1);
    if (rest.empty()) rest.assign(1, '.');
    if (path.ends_with('/') || path.ends_with("/.")) rest += "/";
  }
  auto fd = open_beneath(directory, rest.c_str(), 0, RESOLVE_NO_SYMLINKS);
  if (!fd) {
    // Without links and mount points on the way, ENOENT is the answer.
    if (fd.error() == ENOENT && !mounts_below(whole)) return err(ENOENT);
    return walk(from, path, follow, tid, nullptr);
  }
  auto found = found_node(*this, {*fd, m, whole}, nullptr);
  if (found && S_ISLNK(found->st.st_mode) && follow) return walk(from, path, follow, tid, nullptr);
  return found;
}

namespace {

struct Name {
  std::string name;    // empty: there is none
  bool slash = false;  // one follows
  bool last = true;    // no other name does
};
// Takes the first name off the path.
Name take_name(std::string& path) {
  const std::size_t start = path.find_first_not_of('/');
  if (start == path.npos) return {};
  const std::size_t end = std::min(path.find('/', start), path.size());
  Name taken{.name = path.substr(start, end - start)};
  path.erase(0, end);
  taken.slash = !path.empty(), taken.last = path.find_first_not_of('/') == path.npos;
  return taken;
}

// Links that openat2(2) was told not to follow: errno, or 0.
int refused_link(const Step& next, std::uint64_t resolve) {
  const bool magic = next.file || (next.link && next.entry && next.entry->type == ProcEntry::Type::Executable);
  if (magic && (resolve & (RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS))) return ELOOP;
  if (magic && (resolve & (RESOLVE_BENEATH | RESOLVE_IN_ROOT | RESOLVE_NO_XDEV)))
    return EXDEV;  // it leads out of /proc
  return next.link && (resolve & RESOLVE_NO_SYMLINKS) ? ELOOP : 0;
}

OrErrno<Found> found_file(const Files::State& state, std::shared_ptr<OpenFile> file) {
  Found found;
  auto st = stat_of(state, *file);
  if (!st) return err(st.error());
  found.st = *st;
  found.file = std::move(file);
  return found;
}

}  // namespace

OrErrno<Found> Files::State::walk(const Node& from, const std::string& path, bool follow, int tid, Parent* missing,
                                  std::uint64_t resolve) const {
  if (path.empty()) return err(ENOENT);
  const bool beneath = resolve & RESOLVE_BENEATH, in_root = resolve & RESOLVE_IN_ROOT, scoped = beneath || in_root;
  if (beneath && path.starts_with('/')) return err(EXDEV);
  const Node top = scoped ? from : root();
  Node at = path.starts_with('/') ? top : from;
  const auto crosses = [&](const Node& to) { return (resolve & RESOLVE_NO_XDEV) && !same_mount(at, to); };
  std::string rest = path;
  const auto who = restricting(tid);
  for (int links = 0;;) {
    const auto [name, slash, last] = take_name(rest);
    if (name.empty()) return found_node(*this, at, nullptr);
    if (int error = refused(who.get(), at, X_OK)) return err(error);
    const bool stays = name == ".." && scoped && same_place(at, top);
    if (stays && beneath) return err(EXDEV);
    if (name == "." || stays) {
      if (last) return found_node(*this, at, nullptr);
      continue;
    }
    if (name == "..") {
      auto up = parent_of(*this, at);
      if (!up) return err(up.error());
      if (crosses(*up)) return err(EXDEV);
      at = std::move(*up);
      if (last) return found_node(*this, at, nullptr);
      continue;
    }
    if (name.size() > NAME_MAX) return err(ENAMETOOLONG);
    auto next = step(*this, at, name, last, follow || slash, tid);
    if (!next) {
      if (next.error() == ENOENT && last && missing) *missing = {at, name, slash};
      return err(next.error());
    }
    if (int error = refused_link(*next, resolve)) return err(error);
    if (next->file) {
      if (last && !slash) return found_file(*this, std::move(next->file));
      auto node = directory_node(next->file);
      if (!node) return err(node.error());
      at = std::move(*node);
      if (last) return found_node(*this, at, nullptr);
      continue;
    }
    if (next->link) {
      if (++links > kMaxLinks) return err(ELOOP);
      if (next->link->starts_with('/')) {
        if (beneath || crosses(top)) return err(EXDEV);
        at = top;
      }
      rest.insert(0, *next->link);
      continue;
    }
    if (!next->directory && (!last || slash)) return err(ENOTDIR);
    if (crosses(next->node)) return err(EXDEV);
    if (last) return found_node(*this, std::move(next->node), next->entry ? &*next->entry : nullptr);
    at = std::move(next->node);
  }
}

OrErrno<Parent> Files::State::parent(const Node& from, const std::string& path, int tid) const {
  if (path.empty()) return err(ENOENT);
  Parent result;
  std::size_t end = path.find_last_not_of('/');
  if (end == path.npos) {  // the root itself
    result.dir = root();
    result.slash = true;
    return result;
  }
  result.slash = end + 1 < path.size();
  std::size_t cut = path.rfind('/', end);
  result.name = path.substr(cut == path.npos ? 0 : cut + 1, end - (cut == path.npos ? 0 : cut + 1) + 1);
  if (result.name.size() > NAME_MAX) return err(ENAMETOOLONG);
  std::string directory = cut == path.npos ? "." : path.substr(0, cut + 1);
  auto found = find(from, directory, true, tid);
  if (!found) return err(found.error());
  if (found->file || !S_ISDIR(found->st.st_mode)) return err(ENOTDIR);
  result.dir = std::move(found->node);
  return result;
}

}  // namespace ramet::vmm
