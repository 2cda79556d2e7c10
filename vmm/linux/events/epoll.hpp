// Entries of epoll instances. A guest's instance is one of the host's, which keeps the data of the guest's entries.
#pragma once

#include <sys/epoll.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "guest-mm/thread_annotations.hpp"
#include "vmm/linux/files/files.hpp"

namespace ramet::vmm {

// EPOLLONESHOT entries that had fired before a snapshot was taken. In a copy they are added to the host's instance when
// the program arms them again: an entry that is added is armed for errors at once.
struct Disarmed {
  struct Entry {
    std::weak_ptr<OpenFile> file;
    int number = 0;
    epoll_event event{};
  };
  mutable Mutex lock;  // innermost
  std::vector<Entry> entries RAMET_GUARDED_BY(lock);  // none is added once the program runs
};

// epoll_ctl(2) for `target`, by the number of the guest's descriptor. 0 or -errno.
std::int64_t control_epoll(OpenFile& epoll, const std::shared_ptr<OpenFile>& target, int number, int operation,
                           epoll_event) RAMET_EXCLUDES(target->watched.lock);

// For standard input and its like where epoll on the host refuses the file (a regular one, EPERM): from now on this
// number is always ready in epolls, as poll(2) has it for such files. Precondition: it was to be added to one. Errors:
// ENFILE.
OrErrno<void> always_ready(OpenFile& file, int number) RAMET_EXCLUDES(file.watched.lock);

}  // namespace ramet::vmm
