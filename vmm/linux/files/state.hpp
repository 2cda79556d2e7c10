// What Files consists of: the descriptor table, the shares, the walk from a guest path to a host object; and what the
// sources of this room have in common. For system calls only.
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
      0;  // 0: among the host's entries; else the key of the last entry returned that is not the host's
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

// A place on the way along a path. Its descriptor keeps it the same object when the host renames files.
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
  // The umask of the VMM, which the host's kernel applies. Read when first needed: most guests create no file.
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
  // The thread's credentials if they differ from the VMM's. Null: they do not, so the host's own check is enough; or
  // tid is 0, the VMM itself.
  std::shared_ptr<const Credentials> restricting(int tid) const;
  // Held while a file is created and chowned to such ids, and while threads with such ids remove or rename names: so no
  // other file takes the new one's place before the chown. One for the family; the outermost lock. No Mutex: it is
  // taken for some ids only, which clang cannot follow.
  std::shared_ptr<std::mutex> naming = std::make_shared<std::mutex>();

  // --- mapped files, files/backing.cpp ---
  std::shared_ptr<MappedFiles> mapped = std::make_shared<MappedFiles>();
  std::shared_ptr<HostMappings> mappings = std::make_shared<HostMappings>();  // of the family

  // --- memfds, files/memfd.cpp ---
  // The family's memory files, its shared memory and what the VMM holds for its files, against one limit: the memory
  // limit of one of its VMs, set by the first process.
  std::shared_ptr<mm::Account> account = std::make_shared<mm::Account>();

  const std::shared_ptr<Devices> devices = std::make_shared<Devices>();  // rings and the like
  std::shared_ptr<SplicedPages> spliced_pages RAMET_GUARDED_BY(lock);  // files/vmsplice.cpp; once set it stays

  // --- files/table.cpp ---
  std::shared_ptr<OpenFile> get(int fd) const { return descriptors.get(fd); }
  // Takes what the file costs from `account`, once. False: ENFILE.
  bool charge(OpenFile&) const;
  std::size_t descriptor_limit() const;
  OrErrno<int> install(std::shared_ptr<OpenFile>, bool close_on_exec, int from = 0);
  // A number taken before its file exists: for calls with other effects (create, truncate, accept), which must not
  // happen when the table is full. The destructor frees the number unless put() was called.
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
  OrErrno<Reserved> reserve();  // Errors: EMFILE
  // Installs both or none.
  OrErrno<std::array<int, 2>> install_pair(std::shared_ptr<OpenFile>, std::shared_ptr<OpenFile>, bool close_on_exec);
  bool close(int fd) RAMET_EXCLUDES(locks_lock);  // false: it is not open
  // Drops the POSIX locks that close(2) drops: all of the process's on that file.
  void release_locks(const OpenFile&) RAMET_EXCLUDES(locks_lock);
  mode_t masked(mode_t mode) const RAMET_EXCLUDES(lock);  // without what the umask takes off
  std::shared_ptr<OpenFile> working_directory() const RAMET_EXCLUDES(lock);

  // --- mounts, files/mounts.cpp ---
  int mount_at(std::string_view path) const;  // exactly there; -1: none
  int covering_mount(std::string_view path) const;  // the deepest share that path is in; -1: none
  bool mounts_below(std::string_view path) const;  // strictly
  // True for what must stay where it is: mount points, their parents, /proc, /sys, /dev.
  bool fixed(std::string_view path) const;
  // Where a directory is now: its guest path even after renames. ENOENT if it is gone or has left its share.
  OrErrno<std::string> current_path(const Node&) const;
  // The link /proc/self/fd/N of a host descriptor as a guest path; it ends in " (deleted)" if the file has no name any
  // more. ENOENT: the file is outside of its share.
  OrErrno<std::string> path_in_mount(const HostFd&, int mount) const;
  // How the links of /proc name a file: as it is called now, or as it was when it was opened.
  std::string shown_path(const OpenFile&) const;
  // forbidden_filesystem() of a node, whose attributes are given. Asks the host only about a node on another file
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
  // `resolve`: RESOLVE_* of openat2(2), which each step obeys; not RESOLVE_CACHED.
  OrErrno<Found> walk(const Node& base, const std::string& path, bool follow, int tid, Parent* missing,
                      std::uint64_t resolve = 0) const;

  // --- opening, files/open.cpp ---
  // `thread` null: for the VMM itself, must not wait.
  OrErrno<std::shared_ptr<OpenFile>> open(Thread* thread, const Node& base, const std::string& path, int flags,
                                          mode_t mode, std::uint64_t resolve = 0);
  OrErrno<std::shared_ptr<OpenFile>> open_found(Thread* thread, Found&, int flags, mode_t mode);
  // The part of open_found() for objects of the host, without O_PATH. `may_write`: their share is writable.
  OrErrno<std::shared_ptr<OpenFile>> open_object(Thread*, const Found&, int flags, mode_t mode, bool may_write);
  // `who`: restricting()'s result.
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
// Whether open(2)'s flags ask for writing; and the permissions that they need, a set of R_OK and W_OK.
bool wants_write(int flags);
unsigned wanted_of(int flags);
bool may_block(const OpenFile&);  // whether reading or writing may wait
// A socket, not the file of one opened with O_PATH.
inline bool is_socket(const OpenFile& file) { return file.kind == OpenFile::Kind::Socket && file.operations; }

// stat(2) of what was found: the host's, or made up for synthetic files.
OrErrno<struct stat> stat_of(const Files::State&, const Found&);
OrErrno<struct stat> stat_of(const Files::State&, const OpenFile&);

// What an *at call names: dirfd, the guest's pointer to a path, and AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH of its flags.
OrErrno<Found> locate(Thread&, int dirfd, mm::Gva path, int flags);

// Truncates by `call` (0 or -errno, returned), after no mapping of the file reaches beyond new_size any more: mappings
// never extend beyond the end of the host's file. fd: any descriptor of the file.
std::int64_t truncating(Files::State& state, int fd, std::uint64_t new_size, const std::function<std::int64_t()>& call)
    RAMET_EXCLUDES(state.mapped->truncate_lock, state.mapped->lock);

// --- files/size_limit.cpp ---
// Where a write would begin in a regular file, and the file's size, both in bytes; for other files `regular` is false.
// `flags`: RWF_*. Errors: the host's, EINVAL.
struct WriteStart {
  bool regular = false;
  std::uint64_t size = 0, at = 0;
};
OrErrno<WriteStart> write_start(const OpenFile&, std::int64_t offset, int flags);
// How many of `length` bytes the thread may write there within its RLIMIT_FSIZE. Errors: EFBIG, when the thread was
// sent SIGXFSZ, and those of write_start().
OrErrno<std::uint64_t> room_to_write(Thread&, const OpenFile&, std::int64_t offset, int flags, std::uint64_t length);
// Whether RLIMIT_FSIZE forbids the file to have `size` bytes. 0 or -errno.
std::int64_t refused_size(Thread&, const OpenFile&, std::uint64_t size);
// Cuts the pieces off after `bytes` bytes of them.
void cut_to(std::vector<iovec>& pieces, std::uint64_t bytes);

// What one memory file takes from the family's limit. grow() comes before the file grows to `end` bytes; false: ENOSPC.
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

// Whether `who` (null: unrestricted) is refused `wanted`, a set of R_OK, W_OK and X_OK: 0 or errno. files/access.cpp.
int refused(const Credentials* who, const struct stat&, unsigned wanted);
int refused(const Credentials* who, const Node& directory, unsigned wanted);
// Whether `who` may not remove or rename the name of `what` in the directory `from`: 0 or errno.
int refused_removal(const Credentials* who, const Node& from, const struct stat& what);
// Chowns the file `made`, just created in that directory, to `who` (null: nothing is done); 0 or errno.
int give_to(const Credentials* who, int made, const struct stat& directory);

// Bytes that a socket holds until they are received.
std::uint64_t send_buffer(int host);
// The files of the thread's process.
Files::State& state_of(Thread&);
// If `result` is -EPIPE: sends SIGPIPE to the guest's thread, and discards the one that the write raised in the host's
// thread, which blocks it (signals_blocked.hpp). Returns result.
std::int64_t broken_pipe(Thread&, std::int64_t result);

// Parts of the lists of calls.
std::span<const Definition> descriptor_calls();  // files/table.cpp
std::span<const Definition> open_calls();  // files/open.cpp
std::span<const Definition> control_calls();  // files/control.cpp: fcntl, ioctl, flock

// Creates a socket's file and calls `bind` with its O_PATH descriptor (0 or -errno); if that fails, removes the file.
// Errors: EEXIST, those of mknod(2) and of `bind`. files/change.cpp.
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
