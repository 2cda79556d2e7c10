// Entries of epoll instances. A guest's instance is one of the host's; what the guest attached to an entry passes
// through.
#pragma once

#include <sys/epoll.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "guest-mm/thread_annotations.hpp"
#include "vmm/linux/files/files.hpp"

namespace ramet::vmm {

// EPOLLONESHOT entries that had fired before a snapshot was taken. In a copy the host's instance has them only when the
// program arms them again: the host arms every entry for errors when it is added.
struct Disarmed {
  struct Entry {
    std::weak_ptr<OpenFile> file;
    int number = 0;
    epoll_event event{};
  };
  mutable Mutex lock;  // a leaf
  std::vector<Entry> entries RAMET_GUARDED_BY(lock);  // none is added once the program runs
};

// epoll_ctl(2), by the guest's number of the file. 0 or -errno.
std::int64_t control_epoll(OpenFile& epoll, const std::shared_ptr<OpenFile>& target, int number, int operation,
                           epoll_event) RAMET_EXCLUDES(target->watched.lock);

// For standard input and its like where the host lets nobody wait for them (a regular file, EPERM): from now on this
// number is always ready in epolls, as poll(2) has it for such files. Precondition: it was to be added to one. Errors:
// ENFILE.
OrErrno<void> always_ready(OpenFile& file, int number) RAMET_EXCLUDES(file.watched.lock);

}  // namespace ramet::vmm
