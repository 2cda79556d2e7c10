// Makes the host processes of guests, from one thread that lives as long as any of them: the kernel ends a process with
// the *thread* that made it (PR_SET_PDEATHSIG). It also holds the program that all of them begin with, the stub. The
// thread has a descriptor table of its own: no new process keeps a file of the VMM's open, be it for a moment (a pipe
// would not end, an epoll would still report what a guest has closed).
#pragma once

#include <condition_variable>
#include <expected>
#include <functional>
#include <memory>
#include <thread>

#include "guest-mm/thread_annotations.hpp"
#include "vmm/error.hpp"

namespace ramet::vmm::process {

class ChildMaker {
 public:
  // The VMM's only one, made if there is none. Errors: no thread, no memory file.
  static std::expected<std::shared_ptr<ChildMaker>, Failure> get();
  ~ChildMaker();

  struct Made {
    int pid = -1, pidfd = -1;
    int error = 0;  // errno, if there is none
  };
  // A process that begins in the stub with these as descriptors 3 and 5, and the stub's text as 4. They stay the
  // caller's.
  Made make(int contexts, int socket) RAMET_EXCLUDES(lock_);

 private:
  ChildMaker() = default;
  Status start() RAMET_EXCLUDES(lock_);
  void work() RAMET_EXCLUDES(lock_);
  bool separate();  // on the thread: leaves the VMM's descriptor table
  Made spawn();

  int orders_ = -1;  // a socket, into which an order's descriptors are sent
  int program_ = -1, hearer_ = -1;  // the stub, and the socket's other end: until the thread has them in its own table
  Mutex lock_;  // innermost
  std::condition_variable changed_;
  struct Order {
    Made made;
    bool done = false;
  };
  Order* order_ RAMET_GUARDED_BY(lock_) = nullptr;
  bool stop_ RAMET_GUARDED_BY(lock_) = false, ready_ RAMET_GUARDED_BY(lock_) = false;
  std::thread thread_;
};

}  // namespace ramet::vmm::process
