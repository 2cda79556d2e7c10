// What the files of one guest consist of, shared by the files_*.cpp: the descriptor table, the shares,
// the walk from a guest path to a host object. Private to them.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include <atomic>
#include <functional>
#include <optional>
#include <span>
#include <string_view>

#include "guest-mm/thread_annotations.hpp"
#include "vmm/linux/credentials.hpp"
#include "vmm/linux/files/charge.hpp"
#include "vmm/linux/files/descriptors.hpp"
#include "vmm/linux/files/files.hpp"
#include "vmm/linux/files/operations.hpp"
#include "vmm/linux/files/pin_holders.hpp"
#include "vmm/linux/files/scratch.hpp"
#include "vmm/linux/limits.hpp"
#include "vmm/linux/memory/host_mapping.hpp"
#include "vmm/linux/syscall.hpp"

namespace ramet::vmm {

class Thread;

inline constexpr int kMaxDescriptors = static_cast<int>(Limits::kOpenFiles);

struct OpenFile::Listing {
  mutable Mutex lock;
  std::uint64_t position RAMET_GUARDED_BY(lock) =
      0;  // 0: in the host's entries; else the key of the last extra entry given
};

// A share, as a host directory held open. Immutable once Files::create() is through.
struct Mount {
  std::string guest;  // absolute, normalised
  HostFd root;        // O_PATH
  dev_t root_device = 0;  // st_dev of root
  bool writable = false;
  std::unique_ptr<ScratchDirectory> scratch;  // instead of root
  const HostFd& directory() const { return scratch ? scratch->directory() : root; }
  // st_dev of directory(), which is open and so keeps the number from becoming another file system's.
  dev_t device() const { return scratch ? scratch->device() : root_device; }
};

// A place on the way of a path. Holds a descriptor, so it stays what it is when the host renames things.
struct Node {
  std::shared_ptr<const HostFd> fd;  // null: synthetic
  int mount = -1;
  std::string path;            // guest path; "/" or without trailing slash
  bool base = false;           // the start of a relative path: `path` may have been renamed since
};

// What a path names.
struct Found {
  Node node;
  std::shared_ptr<OpenFile> file;  // instead: this open file (AT_EMPTY_PATH, /proc/self/fd/N)
  struct stat st{};
  bool synthetic() const { return file ? file->synthetic || file->kind == OpenFile::Kind::Synthetic : !node.fd; }
  int host() const { return file ? file->host.get() : node.fd ? node.fd->get() : -1; }
  const std::string& path() const { return file ? file->path : node.path; }
};

// The directory and the name that a path would have, for calls that create or remove.
struct Parent {
  Node dir;
  std::string name;     // one component; "." or ".." or empty (the root) as the path ended
  bool slash = false;   // the path ended with one
};

// The description that holds a process's locks on a file.
struct LockHolder {
  LockHolder(HostFd fd, std::shared_ptr<FileCharge> charge) : host(std::move(fd)), charged(std::move(charge)) {}
  HostFd host;
  std::shared_ptr<FileCharge> charged;
};

class FileBacking;
class SplicedPages;

// The files that the family has mapped, so that they can be truncated. Shared by all its processes.
struct MappedFiles {
  Mutex lock;
  std::vector<std::weak_ptr<FileBacking>> backings RAMET_GUARDED_BY(lock);
  Mutex truncate_lock;          // one truncation at a time; lock order: truncate_lock > address space
};

struct Files::State {
  State();
  State(const State& parent);        // fork(2)

  Descriptors descriptors;
  mutable Mutex lock;  // innermost
  std::shared_ptr<OpenFile> cwd RAMET_GUARDED_BY(lock);
  std::optional<mode_t> umask RAMET_GUARDED_BY(lock);       // empty: the host's
  // What the host takes off by itself. Looked up when first needed: most guests create no file.
  mode_t host_umask() const;
  mutable std::once_flag host_umask_read;
  mutable mode_t host_umask_value = 0;

  // --- POSIX locks, files/lock.cpp ---
  // One description of our own for each file that the process has locked: its locks are the process's.
  struct Locked {
    dev_t device = 0;
    ino_t inode = 0;
    std::shared_ptr<LockHolder> holder;
  };
  mutable Mutex locks_lock;  // innermost
  std::vector<Locked> locked RAMET_GUARDED_BY(locks_lock);

  // Of all processes of the family; not changed once the first runs. By guest path, parents first.
  std::shared_ptr<std::vector<Mount>> all_mounts = std::make_shared<std::vector<Mount>>();
  std::vector<Mount>& mounts = *all_mounts;
  Process* process = nullptr;

  // --- the guest's ids, files/access.cpp ---
  // Those of the thread, if they are others than the VMM's; null: the host's answer is enough, or the VMM itself asks
  // (0).
  std::shared_ptr<const Credentials> restricting(int tid) const;
  // Held while a name is made and its file given to such ids, and while they take names away or move them: so no other
  // file can be put in its place. Of the family; outermost. No Mutex: taken for some ids only, which clang cannot
  // follow.
  std::shared_ptr<std::mutex> naming = std::make_shared<std::mutex>();

  // --- mapped files, files/backing.cpp ---
  std::shared_ptr<MappedFiles> mapped = std::make_shared<MappedFiles>();
  std::shared_ptr<HostMappings> mappings = std::make_shared<HostMappings>();  // of the family

  // --- memfds, files/memfd.cpp ---
  // What the family has together, from one limit: memory files and shared memory; and what the VMM holds for its files.
  // The limit is that of any of its VMs, set by the first process.
  std::shared_ptr<mm::Account> account = std::make_shared<mm::Account>();

  const std::shared_ptr<Devices> devices = std::make_shared<Devices>();  // rings and the like
  std::shared_ptr<SplicedPages> spliced_pages;  // files/vmsplice.cpp; guarded by lock, once set it stays

  // --- files/table.cpp ---
  std::shared_ptr<OpenFile> get(int fd) const { return descriptors.get(fd); }
  // Takes what the file costs from `account`, once. False: ENFILE.
  bool charge(OpenFile&) const;
  std::size_t descriptor_limit() const;
  OrErrno<int> install(std::shared_ptr<OpenFile>, bool close_on_exec, int from = 0);
  // A number to be had before the file is: for calls that change something besides (create, truncate, take a
  // connection), which they must not where the table is full. Given back unless a file was put there. Errors: EMFILE.
  class Reserved {
   public:
    Reserved(State& state, int fd) : state_(&state), fd_(fd) {}
    Reserved(Reserved&& o) noexcept : state_(std::exchange(o.state_, nullptr)), fd_(o.fd_) {}
    Reserved& operator=(Reserved&&) = delete;
    ~Reserved();
    int put(std::shared_ptr<OpenFile>, bool close_on_exec) &&;

   private:
    State* state_;  // null: nothing to give back
    int fd_;
  };
  OrErrno<Reserved> reserve();
  // Installs both or none.
  OrErrno<std::array<int, 2>> install_pair(std::shared_ptr<OpenFile>, std::shared_ptr<OpenFile>, bool close_on_exec);
  bool close(int fd);
  // Drops the POSIX locks that close(2) drops: all of the process's on that file.
  void release_locks(const OpenFile&);
  mode_t masked(mode_t mode) const;
  std::shared_ptr<OpenFile> working_directory() const;

  // --- mounts, files/mounts.cpp ---
  int mount_at(std::string_view path) const;  // exactly there; -1: none
  int covering_mount(std::string_view path) const;  // the deepest share that path is in; -1: none
  bool mounts_below(std::string_view path) const;  // strictly
  // True for what must stay where it is: mount points, their parents, /proc, /sys, /dev.
  bool fixed(std::string_view path) const;
  // Where a directory is now: its guest path even after renames. ENOENT if it is gone or has left its share.
  OrErrno<std::string> current_path(const Node&) const;
  // What the host's own link of a descriptor says, as a guest path: with " (deleted)" if the name has gone. ENOENT: it
  // has left its share.
  OrErrno<std::string> path_in_mount(const HostFd&, int mount) const;
  // How the links of /proc name a file: as it is called now, or as it was when it was opened.
  std::string shown_path(const OpenFile&) const;
  // forbidden_filesystem() of what was found and has that stat: the host is asked only about what lies on another file
  // system than its share.
  bool forbidden(const Node&, const struct stat&) const;
  bool writable(const Node& n) const { return n.mount >= 0 && mounts[static_cast<std::size_t>(n.mount)].writable; }

  // --- walking, files/walk.cpp ---
  Node root() const;
  static Node node_of(const std::shared_ptr<OpenFile>&);  // Precondition: Kind::Directory
  // AT_FDCWD: the working directory. Errors: EBADF, ENOTDIR.
  OrErrno<Node> base(int dirfd, const std::string& path) const;
  OrErrno<Found> find(const Node& base, const std::string& path, bool follow, int tid) const;
  OrErrno<Parent> parent(const Node& base, const std::string& path, int tid) const;
  // As find(); where only the last component is missing, fills `missing` beside ENOENT.
  // `resolve`: RESOLVE_* of openat2(2), which all of the walk keeps to; not RESOLVE_CACHED.
  OrErrno<Found> walk(const Node& base, const std::string& path, bool follow, int tid, Parent* missing,
                      std::uint64_t resolve = 0) const;

  // --- opening, files/open.cpp ---
  // `thread` null: for the VMM itself, must not wait.
  OrErrno<std::shared_ptr<OpenFile>> open(Thread* thread, const Node& base, const std::string& path, int flags,
                                          mode_t mode, std::uint64_t resolve = 0);
  OrErrno<std::shared_ptr<OpenFile>> open_found(Thread* thread, Found&, int flags, mode_t mode);
  // Of open_found(): neither the VMM's own file nor with O_PATH alone. `may_write`: its share may be written.
  OrErrno<std::shared_ptr<OpenFile>> open_object(Thread*, const Found&, int flags, mode_t mode, bool may_write);
  // `who`: as restricting() tells.
  OrErrno<std::shared_ptr<OpenFile>> create(const Parent&, int flags, mode_t mode, const Credentials* who);
};

// Offsets of the entries of a directory that are not the host's, see files/directory.cpp. ext4's own end
// of a directory is 2^63-1: not among them.
inline constexpr std::uint64_t kExtraEntries = 0x7fff'ffff'0000'0000, kMaxExtra = 0x7fff'ffff;

// --- helpers ---
std::string join(std::string_view directory, std::string_view name);
std::string normalised(std::string_view absolute_path);  // lexically; ".." at the root stays there
// True for procfs, sysfs and other file systems through which one reaches the kernel instead of files.
bool forbidden_filesystem(int fd);
std::string fd_path(int host_fd);  // "/proc/self/fd/N", on the host
std::shared_ptr<OpenFile> make_file(OpenFile::Kind, HostFd, int flags, std::string path = {});
OpenFile::Kind kind_of(mode_t mode);
// Of open(2)'s flags: the file is to be written; what its mode has to allow for them, R_OK and W_OK.
bool wants_write(int flags);
unsigned wanted_of(int flags);
bool may_block(const OpenFile&);
// And not only the file of one, opened with O_PATH.
inline bool is_socket(const OpenFile& file) { return file.kind == OpenFile::Kind::Socket && file.operations; }

// stat(2) of what was found: the host's, or made up for synthetic files.
OrErrno<struct stat> stat_of(const Files::State&, const Found&);
OrErrno<struct stat> stat_of(const Files::State&, const OpenFile&);

// What an *at call names: dirfd, the guest's pointer to a path, and AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH of its flags.
OrErrno<Found> locate(Thread&, int dirfd, mm::Gva path, int flags);

// Truncates through `call`, having made sure that no mapping of the file reaches beyond new_size before
// the host's file does not. `call` returns 0 or -errno. fd: any descriptor of the file.
std::int64_t truncating(Files::State&, int fd, std::uint64_t new_size, const std::function<std::int64_t()>& call);

// --- files/size_limit.cpp ---
// Where a write would begin in a regular file of that size; others: not regular. `flags`: RWF_*. Errors: the host's,
// EINVAL.
struct WriteStart {
  bool regular = false;
  std::uint64_t size = 0, at = 0;
};
OrErrno<WriteStart> write_start(const OpenFile&, std::int64_t offset, int flags);
// How many of `length` bytes the thread may write there within its RLIMIT_FSIZE. Errors: EFBIG, when the thread was
// sent SIGXFSZ, and those of write_start().
OrErrno<std::uint64_t> room_to_write(Thread&, const OpenFile&, std::int64_t offset, int flags, std::uint64_t length);
// The same for a file that is to have `size` bytes. 0 or -errno.
std::int64_t refused_size(Thread&, const OpenFile&, std::uint64_t size);
// Leaves so many bytes of them.
void cut_to(std::vector<iovec>&, std::uint64_t bytes);

// Bounds what memory files may take. Held while a file may grow to `end` bytes; false: ENOSPC.
class MemoryCharge {
 public:
  explicit MemoryCharge(std::shared_ptr<mm::Account> account) : account_(std::move(account)) {}
  ~MemoryCharge() { account_->give(charged_); }
  bool grow(std::uint64_t end);  // lock held
  void shrink(std::uint64_t end);  // lock held
  // Held over each call that moves the offset or changes the size. No Mutex: calls take it only for files that have a
  // charge, which clang cannot follow.
  std::mutex lock;
  std::uint64_t in_flight = 0;  // guarded by lock: bytes of rings' writes at the file's offset or its end
 private:
  const std::shared_ptr<mm::Account> account_;
  std::uint64_t charged_ = 0;  // guarded by lock
};

// Whether such ids (null: no question) are refused what they want, R_OK, W_OK, X_OK together: 0 or errno.
// files/access.cpp.
int refused(const Credentials* who, const struct stat&, unsigned wanted);
int refused(const Credentials* who, const Node& directory, unsigned wanted);
// The same of taking a name away.
int refused_removal(const Credentials* who, const Node& from, const struct stat& what);
// Gives them what was just made in that directory; 0 or errno.
int give_to(const Credentials* who, int made, const struct stat& directory);

// What a socket may send before somebody receives it.
std::uint64_t send_buffer(int host);
// What the thread's process has.
Files::State& state_of(Thread&);
// Sends SIGPIPE to the guest's thread if `result` is -EPIPE, and takes off the host's, which it has blocked
// (signals_blocked.hpp); returns result.
std::int64_t broken_pipe(Thread&, std::int64_t result);

// Parts of the lists of calls.
std::span<const Definition> descriptor_calls();  // files/table.cpp
std::span<const Definition> open_calls();  // files/open.cpp
std::span<const Definition> control_calls();  // files/control.cpp: fcntl, ioctl, flock

// Makes the file of a socket's name and has `bind` bind to it (its O_PATH descriptor; 0 or -errno): if that fails the
// file is gone again. Errors: EEXIST, those of mknod(2) and of `bind`. files/change.cpp.
std::int64_t with_socket_node(Thread&, const std::string& path, const std::function<std::int64_t(HostFd)>& bind);
// F_GETLK, F_SETLK, F_SETLKW and their OFD kinds; files/lock.cpp.
std::int64_t lock_call(Thread&, const OpenFile&, int command, mm::Gva at);
std::span<const Definition> copy_calls();  // files/copy.cpp: sendfile, copy_file_range, splice, tee
std::span<const Definition> vmsplice_calls();  // files/vmsplice.cpp
std::span<const Definition> stat_calls();  // files/stat.cpp
std::span<const Definition> change_calls();  // files/change.cpp: names and attributes
std::span<const Definition> directory_calls();  // files/directory.cpp: getdents, chdir, getcwd
std::span<const Definition> memfd_calls();  // files/memfd.cpp: memfd_create, ftruncate, fallocate

}  // namespace ramet::vmm
