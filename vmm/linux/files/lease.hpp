// Leases of fcntl(2): a lease's holder is signalled before another process opens or truncates the file; that one waits
// until the holder has given the lease back, kBreakTime at most. Leases hold among the family's own processes: no
// program of the host waits for a guest.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "guest-mm/thread_annotations.hpp"

namespace ramet::vmm {

class Family;
class Leases;
class Thread;
struct FileOwner;
struct OpenFile;

// Part of an open file description, gone with it.
class Lease {
 public:
  Lease(std::shared_ptr<Leases>, const struct stat&, std::shared_ptr<FileOwner>);
  ~Lease();

 private:
  friend class Leases;
  const std::shared_ptr<Leases> of_;
  const dev_t device_;
  const ino_t inode_;
  const std::shared_ptr<FileOwner> owner_;  // who is signalled
  // The rest is guarded by Leases' lock.
  int type_ = F_UNLCK;                   // F_RDLCK: others may read; F_WRLCK: nobody else may open the file
  int target_ = F_UNLCK;                 // what it becomes by deadline_; equal to type_: it is not being broken
  std::chrono::steady_clock::time_point deadline_;
};

// The leases of a family. Thread-safe.
class Leases : public std::enable_shared_from_this<Leases> {
 public:
  static constexpr std::size_t kMost = 1024;
  static constexpr std::chrono::seconds kBreakTime{45};  // as /proc/sys/fs/lease-break-time has it

  // F_SETLEASE. The file's owner and signal go with a lease, as on Linux. `number`: the descriptor that the program
  // names. 0 or -errno: EINVAL (no regular file), EACCES (not the caller's, who has no CAP_LEASE), EAGAIN (others have
  // it open, or there is none to give back), ENOLCK (too many).
  std::int64_t set(Thread&, OpenFile&, int number, int type) RAMET_EXCLUDES(lock_);
  // F_GETLEASE: F_UNLCK if there is none; what a lease is to become if it is being broken.
  int get(const OpenFile&) const RAMET_EXCLUDES(lock_);
  // Called before the file is opened (`writes`: for writing) or truncated by its name. Breaks the leases that forbid it
  // and waits until they are given back or timed out. 0 or errno: EWOULDBLOCK (`at_once`: does not wait), EINTR.
  int wait_for_holders(Thread&, const struct stat&, bool writes, bool at_once) RAMET_EXCLUDES(lock_);

 private:
  friend class Lease;
  void take_away_locked(Lease&) RAMET_REQUIRES(lock_);
  void changed_locked() RAMET_REQUIRES(lock_);
  mutable Mutex lock_;  // guards OpenFile::lease as well; order: before FileOwner's
  std::vector<Lease*> leases_ RAMET_GUARDED_BY(lock_);  // whose type_ is not F_UNLCK
  std::atomic<std::size_t> count_{0};  // of leases_. Relaxed: an open that misses a new lease counts as earlier
  std::atomic<std::uint32_t> changes_{0};  // a futex word; changes under lock_, and is read there before a wait
};

}  // namespace ramet::vmm
