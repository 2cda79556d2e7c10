// Shares: the table of what the guest may see, and which guest path lies in which share.
#include <sys/resource.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "vmm/linux/files/state.hpp"
#include "vmm/linux/processes/process.hpp"

namespace ramet::vmm {

std::string join(std::string_view directory, std::string_view name) {
  std::string path(directory);
  if (!path.ends_with('/')) path += '/';
  path += name;
  return path;
}

std::string normalised(std::string_view path) {
  std::string out;
  while (!path.empty()) {
    std::size_t slash = path.find('/');
    std::string_view part = path.substr(0, slash);
    path.remove_prefix(slash == path.npos ? path.size() : slash + 1);
    if (part.empty() || part == ".") continue;
    if (part == "..") {
      std::size_t cut = out.rfind('/');
      out.resize(cut == out.npos ? 0 : cut);
      continue;
    }
    out += '/';
    out += part;
  }
  return out.empty() ? "/" : out;
}

std::string fd_path(int host_fd) { return "/proc/self/fd/" + std::to_string(host_fd); }

bool forbidden_filesystem(int fd) {
  // Through these one reaches the kernel, other processes or host services instead of files.
  static constexpr std::array<std::uint32_t, 22> kMagic = {
      0x9fa0,      // procfs
      0x62656572,  // sysfs
      0x64626720,  // debugfs
      0x74726163,  // tracefs
      0x27e0eb,    // cgroup
      0x63677270,  // cgroup2
      0x73636673,  // securityfs
      0xcafe4a11,  // bpf
      0x6165676c,  // pstore
      0xde5e81e4,  // efivarfs
      0xf97cff8c,  // selinuxfs
      0x43415d53,  // smackfs
      0x5a3c69f0,  // apparmorfs
      0x1cd1,      // devpts
      0x42494e4d,  // binfmt_misc
      0x62656570,  // configfs
      0x65735543,  // fusectl
      0x19800202,  // mqueue
      0x7655821,   // resctrl
      0xabba1974,  // xenfs
      0x6e736673,  // nsfs
      0x67596969,  // rpc_pipefs
  };
  struct statfs fs;
  if (::fstatfs(fd, &fs) != 0) return true;
  return std::ranges::find(kMagic, static_cast<std::uint32_t>(fs.f_type)) != kMagic.end();
}

namespace {

constexpr std::string_view kSynthetic[] = {"/proc", "/sys", "/dev"};

// True if path is `directory` or lies below it.
bool within(std::string_view path, std::string_view directory) {
  if (directory == "/") return true;
  return path.starts_with(directory) && (path.size() == directory.size() || path[directory.size()] == '/');
}

// umask(2) cannot be read without changing it for all threads.
mode_t read_host_umask() {
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    unsigned mask;
    if (std::sscanf(line.c_str(), "Umask: %o", &mask) == 1) return mask & 0777;
  }
  return 022;
}

// Each guest descriptor is a host descriptor: make room, as far as the host lets us.
void raise_descriptor_limit() {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  rlim_t wanted = std::min<rlim_t>(limit.rlim_max, 65536);
  if (limit.rlim_cur >= wanted) return;
  limit.rlim_cur = wanted;
  // If it fails, the guest meets EMFILE earlier; nothing else changes.
  (void)setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

mode_t Files::State::host_umask() const {
  std::call_once(host_umask_read, [this] { host_umask_value = read_host_umask(); });
  return host_umask_value;
}

int Files::State::mount_at(std::string_view path) const {
  for (std::size_t i = 0; i < mounts.size(); ++i)
    if (mounts[i].guest == path) return static_cast<int>(i);
  return -1;
}

int Files::State::covering_mount(std::string_view path) const {
  int best = -1;
  std::size_t length = 0;
  for (std::size_t i = 0; i < mounts.size(); ++i)
    if (within(path, mounts[i].guest) && mounts[i].guest.size() > length) {
      best = static_cast<int>(i);
      length = mounts[i].guest.size();
    }
  // The synthetic trees lie above a share at "/", and below one inside of them.
  for (std::string_view synthetic : kSynthetic)
    if (within(path, synthetic) && synthetic.size() >= length) return -1;
  return best;
}

bool Files::State::mounts_below(std::string_view path) const {
  if (path == "/") return true;  // /proc, /sys, /dev
  for (const Mount& m : mounts)
    if (m.guest.size() > path.size() && within(m.guest, path)) return true;
  return false;
}

bool Files::State::fixed(std::string_view path) const {
  if (std::ranges::find(kSynthetic, path) != std::end(kSynthetic)) return true;
  return mount_at(path) >= 0 || mounts_below(path);
}

OrErrno<std::string> Files::State::current_path(const Node& node) const {
  if (!node.fd) return node.path;
  struct stat st;
  if (::fstat(node.fd->get(), &st) != 0) return err(errno);
  if (st.st_nlink == 0) return err(ENOENT);
  return path_in_mount(*node.fd, node.mount);
}

bool Files::State::forbidden(const Node& node, const struct stat& st) const {
  const bool of_share = node.mount >= 0 && mounts[static_cast<std::size_t>(node.mount)].device() == st.st_dev;
  return !of_share && forbidden_filesystem(node.fd->get());
}

OrErrno<std::string> Files::State::path_in_mount(const HostFd& host, int in) const {
  const Mount& mount = mounts[static_cast<std::size_t>(in)];
  auto read_link = [](int fd) -> OrErrno<std::string> {
    char text[PATH_MAX];
    ssize_t n = ::readlink(fd_path(fd).c_str(), text, sizeof text);
    if (n < 0) return err(errno);
    if (n == sizeof text) return err(ENAMETOOLONG);
    return std::string(text, static_cast<std::size_t>(n));
  };
  auto here = read_link(host.get()), top = read_link(mount.directory().get());
  if (!here) return here;
  if (!top) return top;
  if (!here->starts_with('/') || !top->starts_with('/') || !within(*here, *top)) return err(ENOENT);
  return normalised(mount.guest + "/" + here->substr(*top == "/" ? 0 : top->size()));
}

std::string Files::State::shown_path(const OpenFile& file) const {
  if (file.charge) return file.path + " (deleted)";
  if (file.mount < 0 || !file.host) return file.path;
  return path_in_mount(file.host, file.mount).value_or(file.path);
}

Files::Files(std::unique_ptr<State> state) : state_(std::move(state)) {}
Files::Files(Files&&) noexcept = default;
Files& Files::operator=(Files&&) noexcept = default;
Files::~Files() = default;

std::expected<Files, Failure> Files::create(const std::vector<Share>& shares) {
  raise_descriptor_limit();
  auto state = std::make_unique<State>();
  std::vector<Share> ordered = shares;
  for (Share& s : ordered) s.guest = normalised(s.guest);
  std::ranges::sort(ordered, {}, [](const Share& s) { return s.guest.size(); });
  for (const Share& s : ordered) {
    std::string option = s.guest == "/" ? "--root " + s.host : "--dir " + s.host + ":" + s.guest;
    for (std::string_view synthetic : kSynthetic)
      if (s.guest == synthetic) return failure(option + ": " + s.guest + " is made by ramet and cannot be replaced");
    Mount mount;
    mount.root = HostFd(::open(s.host.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!mount.root) return failure(option + ": cannot share " + s.host + ": " + std::strerror(errno));
    if (forbidden_filesystem(mount.root.get()))
      return failure(option + ": " + s.host +
                     " is not a file system of files (procfs, sysfs and the like are not shared)");
    struct stat st;
    if (::fstat(mount.root.get(), &st) != 0)
      return failure(option + ": cannot share " + s.host + ": " + std::strerror(errno));
    mount.root_device = st.st_dev;
    mount.guest = s.guest;
    mount.writable = s.writable;
    // Mounted where symbolic links in the shares so far lead: /lib/x is /usr/lib/x if /lib is a link.
    std::size_t cut = s.guest.rfind('/');
    if (s.guest != "/" && cut > 0) {
      auto parent = state->find(state->root(), s.guest.substr(0, cut), true, 0);
      if (parent && S_ISDIR(parent->st.st_mode)) mount.guest = join(parent->path(), s.guest.substr(cut + 1));
    }
    if (state->mount_at(mount.guest) >= 0)
      return failure(option + ": something is shared as " + mount.guest + " already");
    state->mounts.push_back(std::move(mount));
  }
  auto cwd = make_file(OpenFile::Kind::Directory, HostFd(), O_PATH, "/");
  int top = state->mount_at("/");
  if (top >= 0) {
    HostFd root(::fcntl(state->mounts[static_cast<std::size_t>(top)].root.get(), F_DUPFD_CLOEXEC, 0));
    if (!root) return failure(std::string("cannot open the root directory: ") + std::strerror(errno));
    cwd->host = std::move(root);
    cwd->mount = top;
    cwd->writable_mount = state->mounts[static_cast<std::size_t>(top)].writable;
  } else {
    cwd->synthetic = true;
  }
  {
    LockGuard guard(state->lock);
    state->cwd = std::move(cwd);
  }
  return Files(std::move(state));
}

bool Files::in_share(const std::string& guest_path) const {
  return state_->covering_mount(normalised(guest_path)) >= 0;
}

void Files::set_process(Process* process) {
  state_->process = process;
  if (auto image = process->image()) state_->account->set_limit(image->memory().limit_bytes());
}

OrErrno<std::shared_ptr<OpenFile>> Files::open(const std::string& guest_path, int flags, int mode) {
  return state_->open(nullptr, state_->root(), guest_path, flags, static_cast<mode_t>(mode));
}

}  // namespace ramet::vmm
