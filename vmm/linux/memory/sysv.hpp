// System V shared memory (shmget(2)): the segments of a family, as an IPC namespace has them. A segment's memory is
// that of a shared anonymous mapping, which goes with its last user. Differences from Linux: no SHM_STAT and SHM_INFO;
// shm_lpid and shm_dtime tell of calls, not of mappings that end with their process; shmat(2) does not
// look at RLIMIT_AS.
#pragma once

#include <sys/shm.h>

#include <cstddef>
#include <map>
#include <memory>
#include <string>

#include "guest-mm/backing.hpp"
#include "guest-mm/thread_annotations.hpp"

namespace ramet::vmm {

class Family;

struct SysvMemory {
  static constexpr std::size_t kMaxSegments = 4096;  // SHMMNI of Linux

  struct Segment {
    std::weak_ptr<mm::Backing> memory;
    std::shared_ptr<mm::Backing> kept;  // until IPC_RMID; from then on only mappings keep it
    shmid_ds state{};                   // shm_nattch is 0: attached() counts it
  };

  Mutex lock;  // order: before Family's and AddressSpace's
  std::map<int, Segment> segments RAMET_GUARDED_BY(lock);
  int next_id RAMET_GUARDED_BY(lock) = 0;
};

// The text of /proc/sysvipc/shm. rss and swap are 0.
std::string list_segments(Family&);

}  // namespace ramet::vmm
