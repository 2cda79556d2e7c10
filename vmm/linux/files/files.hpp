// Files: what a guest may see of the host's files, and its table of open descriptors.
#pragma once

#include <time.h>

#include <array>
#include <cstdint>
#include <expected>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "guest-mm/backing.hpp"
#include "guest-mm/thread_annotations.hpp"
#include "vmm/error.hpp"
#include "vmm/host_fd.hpp"
#include "vmm/linux/files/lease.hpp"
#include "vmm/linux/files/owner.hpp"
#include "vmm/linux/user_memory.hpp"

namespace ramet::vmm {

class Process;

// What the command line shares. Paths of the guest are absolute and normalised.
struct Share {
  std::string host;
  std::string guest;        // "/" for --root
  bool writable = false;
};

class AsyncWatch;    // files/async.hpp
class FileCharge;    // files/charge.hpp
class FileOperations;  // files/operations.hpp
class MemoryCharge;  // files/memfd.cpp
struct Disarmed;     // epoll.hpp

// An open file description: what dup(2) shares. Once installed it is immutable, but for what the host keeps for its fd
// and for `watched`, `async`, `lease` and `listing`.
struct OpenFile {
  // Device: null, zero, full, random, urandom. Synthetic: a file of /proc or /sys, its bytes in `host`.
  enum class Kind : std::uint8_t {
    File,
    Directory,
    Pipe,
    Event,
    Timer,
    Epoll,
    Socket,
    Stdio,
    Synthetic,
    Device,
    Uring,
    GupTest,
    Signal
  };
  Kind kind = Kind::File;
  HostFd host;
  std::string path;         // guest path when opened; empty for pipes and the like
  bool writable_mount = false;
  bool synthetic = false;   // a directory of /proc, /sys, /dev, or the parent of a mount point: no host directory
  int mount = -1;           // index of the share it was found in; -1: none
  int flags = 0;            // O_ACCMODE and O_PATH of the open; status flags live in the host's descriptor
  std::shared_ptr<MemoryCharge> charge;  // memfd_create's files: what they take from the guest's limit
  std::shared_ptr<FileCharge> charged;   // what it costs the host; set when it is first installed
  int standard = -1;        // 0, 1, 2: ramet's own standard input, output, error
  // Of a Socket, Uring, GupTest, Signal or Synthetic; null for other kinds and with O_PATH.
  std::shared_ptr<FileOperations> operations;
  clockid_t clock{};                     // of a Timer
  bool semaphore = false;                // of an Event: EFD_SEMAPHORE
  std::shared_ptr<Disarmed> disarmed;  // an Epoll continued from a snapshot may have it; set before the program runs
  // An epoll registers a file by descriptor number, so duplicates are registered separately. As all of the guest's
  // duplicates share `host`, each number that is watched gets a host descriptor of its own, kept as long as the file.
  struct Watched {
    mutable Mutex lock;  // innermost
    std::vector<int> numbers RAMET_GUARDED_BY(lock);  // of the guest; numbers[0] is watched by `host`,
    std::vector<HostFd> others RAMET_GUARDED_BY(lock);  // numbers[i] by others[i - 1]
  };
  Watched watched;
  // Who is sent a signal when the file is ready. AsyncFiles and Leases hold the owner, which does not keep the file
  // open.
  const std::shared_ptr<FileOwner> owner = std::make_shared<FileOwner>();
  struct Async {
    std::shared_ptr<AsyncWatch> watch;  // O_ASYNC is set
    bool charged = false;  // AsyncFiles::kBytes are charged, and stay so
  } async;  // guarded by owner->lock
  std::shared_ptr<Lease> lease;  // guarded by the lock of the family's Leases
  // Directories: the position among entries that are not the host's.
  struct Listing;
  std::shared_ptr<Listing> listing;
  ~OpenFile();
  OpenFile();
};

class Files {
 public:
  // Errors: a shared directory that does not exist or is not a directory, with the option that names it.
  static std::expected<Files, Failure> create(const std::vector<Share>& shares);
  Files(Files&&) noexcept;
  Files& operator=(Files&&) noexcept;
  ~Files();

  // Gives the guest empty directories of its own, gone with it, where programs look for a place for temporary
  // files: /tmp unless it is shared, /var/tmp unless that is shared to be written or by itself (SQLite, Python
  // and others try both); and /dev/shm, where C libraries keep shm_open's memory and named semaphores. Once, before the
  // first descriptor.
  void add_scratch();

  // Descriptors 0, 1, 2 become duplicates of the given host descriptors (-1: closed).
  void attach_stdio(int in, int out, int err);

  // fork(2): a copy of the table, of the working directory and the umask; what is open is shared.
  Files fork() const;
  // execve(2): descriptors with FD_CLOEXEC.
  void close_on_exec();
  // The end of the process: all descriptors, and its POSIX locks.
  void close_all();

  // Null if fd is not open. The result stays valid when another thread closes fd, which may name another file by then.
  // So a call looks a descriptor up once; the other functions take the file, not its number.
  std::shared_ptr<OpenFile> get(int fd) const;
  bool holds(const OpenFile&) const;  // whether a descriptor of the process leads to the file
  // Lowest free number at or above `from`; EMFILE past the limit, ENFILE if the family's memory or the host's
  // descriptors are used up.
  OrErrno<int> install(std::shared_ptr<OpenFile>, bool close_on_exec, int from = 0);

  // False if fd is not open.
  bool close(int fd);

  // Opens a guest path for the VMM itself (the loader): as open(2) by the guest, with its checks.
  OrErrno<std::shared_ptr<OpenFile>> open(const std::string& guest_path, int flags, int mode = 0);

  // True if some share covers guest_path: tells "not shared" from "does not exist" in messages.
  bool in_share(const std::string& guest_path) const;

  // The backing for a private or a shared (MAP_SHARED) mapping of the file's bytes [offset, offset+length). All of a
  // shared one is mapped on the host by this call. Where the file shows another one (a ring), `offset` becomes the
  // offset in that. Null: map anonymous memory (/dev/zero). Errors: EACCES, EBADF, EINVAL and EOVERFLOW as mmap(2),
  // ENODEV for files that cannot be mapped, ENOMEM.
  OrErrno<std::shared_ptr<mm::Backing>> backing(const std::shared_ptr<OpenFile>&, bool shared, bool writable,
                                                std::uint64_t& offset, std::uint64_t length, mm::Memory&);
  // The file behind a backing; null: the backing is anonymous memory.
  static std::shared_ptr<OpenFile> file_of(const mm::Backing&);
  // The same for a file that the loader opened; private only.
  static OrErrno<std::shared_ptr<mm::Backing>> private_backing(const std::shared_ptr<OpenFile>&);

  // mmap with MAP_SHARED and MAP_ANONYMOUS; counts against the guest's limit as memory files do. Errors: ENOMEM.
  OrErrno<std::shared_ptr<mm::Backing>> shared_memory(std::uint64_t length, mm::AddressSpace&);

  void set_process(Process*);  // once, by Process's constructor
  // The working directory, / at first. False, and nothing changed, if the guest has no such directory.
  bool enter_directory(const std::string& guest_path);

  struct State;  // files/state.hpp
  State& state() { return *state_; }

 private:
  explicit Files(std::unique_ptr<State>);
  std::unique_ptr<State> state_;
};

}  // namespace ramet::vmm
