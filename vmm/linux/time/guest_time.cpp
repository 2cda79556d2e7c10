#include "vmm/linux/time/guest_time.hpp"

#include <cerrno>
#include <climits>

namespace ramet::vmm {
namespace {

constexpr std::int64_t kMicrosPerSecond = 1'000'000, kNanosPerMicro = 1000, kNanosPerMilli = 1'000'000;

}  // namespace

bool valid_time(const timespec& t) { return t.tv_sec >= 0 && t.tv_nsec >= 0 && t.tv_nsec < kNanosPerSecond; }

OrErrno<timespec> read_time(mm::AddressSpace& memory, mm::Gva at) {
  auto time = read_user<timespec>(memory, at);
  if (time && !valid_time(*time)) return err(EINVAL);
  return time;
}

OrErrno<timespec> to_timespec(const timeval& t) {
  if (t.tv_usec < 0 || t.tv_usec >= kMicrosPerSecond) return err(EINVAL);
  return timespec{t.tv_sec, t.tv_usec * kNanosPerMicro};
}

OrErrno<timespec> carried(const timeval& t) {
  // The sum wraps, as on Linux: one that is too large is negative, and not valid.
  const auto seconds = static_cast<std::uint64_t>(t.tv_sec) + static_cast<std::uint64_t>(t.tv_usec / kMicrosPerSecond);
  const timespec time{static_cast<std::int64_t>(seconds), t.tv_usec % kMicrosPerSecond * kNanosPerMicro};
  if (!valid_time(time)) return err(EINVAL);
  return time;
}

timeval to_timeval(const timespec& t) { return {t.tv_sec, t.tv_nsec / kNanosPerMicro}; }

timespec from_milliseconds(int ms) { return {ms / 1000, ms % 1000 * kNanosPerMilli}; }

int to_milliseconds(const timespec& t) {
  if (t.tv_sec >= INT_MAX / 1000) return INT_MAX;
  return static_cast<int>(t.tv_sec * 1000 + (t.tv_nsec + kNanosPerMilli - 1) / kNanosPerMilli);
}

std::int64_t nanoseconds(const timespec& t) {
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(t.tv_sec) * kNanosPerSecond +
                                   static_cast<std::uint64_t>(t.tv_nsec));
}

timespec deadline_after(clockid_t clock, const timespec& wait) { return sum(host_now(clock), wait); }
timespec time_left(clockid_t clock, const timespec& deadline) { return difference(deadline, host_now(clock)); }

}  // namespace ramet::vmm
