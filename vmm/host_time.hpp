// The host's clocks as durations.
#pragma once

#include <time.h>

#include <chrono>
#include <optional>

namespace ramet::vmm {

// Since the clock's epoch; nothing: there is no such clock, as one of a process that has ended.
inline std::optional<std::chrono::nanoseconds> host_time(clockid_t clock) {
  timespec t;
  if (::clock_gettime(clock, &t) != 0) return {};
  return std::chrono::seconds(t.tv_sec) + std::chrono::nanoseconds(t.tv_nsec);
}

}  // namespace ramet::vmm
