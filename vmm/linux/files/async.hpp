// Watches the files of a family that have O_ASYNC set, see files/owner.hpp. One thread of the VMM, started for the
// first file, waits for all of them in edge-triggered epolls of the host: an edge is what Linux sends a signal for.
#pragma once

#include <sys/epoll.h>

#include <cstdint>
#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "guest-mm/thread_annotations.hpp"
#include "vmm/linux/files/files.hpp"

namespace ramet::vmm {

class Family;
class AsyncFiles;

// As long as it lives, the file is watched.
class AsyncWatch {
 public:
  AsyncWatch(std::shared_ptr<AsyncFiles> by, std::uint64_t id, int host, bool pipe)
      : by_(std::move(by)), id_(id), host_(host), pipe_(pipe) {}
  ~AsyncWatch();
  AsyncWatch(const AsyncWatch&) = delete;
  AsyncWatch& operator=(const AsyncWatch&) = delete;
  // Has the owner signalled once there is room for writing, which may be at once.
  void wants_room();

 private:
  const std::shared_ptr<AsyncFiles> by_;
  const std::uint64_t id_;
  const int host_;
  const bool pipe_;
};

class AsyncFiles : public std::enable_shared_from_this<AsyncFiles> {
 public:
  explicit AsyncFiles(Family& family) : family_(family) {}
  ~AsyncFiles() { stop(); }
  AsyncFiles(const AsyncFiles&) = delete;
  AsyncFiles& operator=(const AsyncFiles&) = delete;

  static constexpr std::size_t kMost = 1024;  // files at once
  static constexpr std::uint64_t kBytes = 1024;  // of each: two struct epitem with places in wait queues, and Watched
  // Signals the file's owner about events of the file from now on. Errors: ENOMEM (kMost are watched, the host gives no
  // thread), and those of epoll_ctl(2).
  OrErrno<std::shared_ptr<AsyncWatch>> watch(const OpenFile&) RAMET_EXCLUDES(lock_);
  void stop() RAMET_EXCLUDES(lock_);  // joins the thread; no owner is told anything afterwards

  // The reasons to signal, a bit() for each of POLL_IN, POLL_OUT, POLL_ERR, POLL_PRI and POLL_HUP, by the events of the
  // epolls for reading (`in`) and writing (`out`). `unread`: the file has bytes to read.
  static constexpr unsigned bit(int reason) { return 1u << reason; }
  static unsigned reasons(bool pipe, std::uint32_t in, std::uint32_t out, bool unread);

 private:
  friend class AsyncWatch;
  struct Watched {
    std::shared_ptr<FileOwner> owner;
    int host = -1;
    bool pipe = false;
    std::uint32_t in = 0, out = 0;  // events taken from the epolls that the thread has not signalled yet
  };
  struct Ready {
    std::shared_ptr<FileOwner> owner;
    unsigned reasons;
  };
  bool start_locked() RAMET_REQUIRES(lock_);
  void collect_locked() RAMET_REQUIRES(lock_);
  std::vector<Ready> ready() RAMET_EXCLUDES(lock_);
  void tell(const Ready&) RAMET_EXCLUDES(lock_);
  void serve() RAMET_EXCLUDES(lock_);  // the thread
  void wake();

  Family& family_;
  Mutex lock_;  // innermost
  HostFd in_,
      out_;  // the host's epolls, for reading and for writing; made by start_locked(), and not changed afterwards
  HostFd wake_;  // an eventfd
  std::map<std::uint64_t, Watched> watched_ RAMET_GUARDED_BY(lock_);  // by a number of its own: the epolls' data
  std::vector<epoll_event> events_ RAMET_GUARDED_BY(lock_);  // a place for each file
  std::uint64_t next_ RAMET_GUARDED_BY(lock_) = 0;
  bool stopping_ RAMET_GUARDED_BY(lock_) = false;
  std::thread thread_;
};

}  // namespace ramet::vmm
