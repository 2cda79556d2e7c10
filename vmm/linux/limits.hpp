// Resource limits of a guest program, and the kernel it believes to run on.
#pragma once

#include <sys/resource.h>

#include <array>

#include "guest-mm/thread_annotations.hpp"

namespace ramet::vmm {

// What uname(2) and /proc/version say. glibc refuses kernels older than it was built for.
inline constexpr const char* kKernelRelease = "6.1.0-ramet";
inline constexpr const char* kKernelVersion = "#1 SMP";

inline constexpr int kMostOomAdjustment = 1000;  // of oom_score_adj; the least is -1000

struct Limits {
  Mutex lock;  // innermost
  std::array<rlimit64, RLIM_NLIMITS> value RAMET_GUARDED_BY(lock) = defaults();
  rlim64_t soft(std::size_t resource) RAMET_EXCLUDES(lock) {
    LockGuard guard(lock);
    return value[resource].rlim_cur;
  }

  static constexpr std::uint64_t kStackBytes = 8ull << 20;
  static constexpr std::uint64_t kOpenFiles = 4096;
  static constexpr std::uint64_t kProcesses = 512;  // of the family, zombies included

  static std::array<rlimit64, RLIM_NLIMITS> defaults() {
    std::array<rlimit64, RLIM_NLIMITS> v;
    v.fill({RLIM64_INFINITY, RLIM64_INFINITY});
    v[RLIMIT_STACK] = {kStackBytes, RLIM64_INFINITY};
    v[RLIMIT_NOFILE] = {kOpenFiles, kOpenFiles};
    v[RLIMIT_CORE] = {0, RLIM64_INFINITY};
    v[RLIMIT_MEMLOCK] = {8ull << 20, 8ull << 20};
    v[RLIMIT_NPROC] = {kProcesses, kProcesses};
    v[RLIMIT_SIGPENDING] = {1024, 1024};
    v[RLIMIT_NICE] = v[RLIMIT_RTPRIO] = {0, 0};
    return v;
  }
};

}  // namespace ramet::vmm
