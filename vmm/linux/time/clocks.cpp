#include "vmm/linux/time/clocks.hpp"

#include "vmm/linux/blocking.hpp"
#include "vmm/linux/time/guest_time.hpp"

namespace ramet::vmm {
namespace {

constexpr std::array<clockid_t, 3> kMoved{CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_BOOTTIME};

// Whatever the signs of the seconds.
timespec add(const timespec& a, const timespec& b) {
  const std::int64_t nanos = a.tv_nsec + b.tv_nsec;
  return {a.tv_sec + b.tv_sec + nanos / kNanosPerSecond, nanos % kNanosPerSecond};
}

timespec negative(const timespec& a) {
  if (a.tv_nsec == 0) return {-a.tv_sec, 0};
  return {-a.tv_sec - 1, kNanosPerSecond - a.tv_nsec};
}

timespec host_now(clockid_t clock) {
  timespec now{};
  ::clock_gettime(clock, &now);
  return now;
}

}  // namespace

timespec Clocks::offset(clockid_t clock) const {
  switch (clock) {
    case CLOCK_MONOTONIC:
    case CLOCK_MONOTONIC_COARSE: return offsets_[0];
    case CLOCK_MONOTONIC_RAW: return offsets_[1];
    case CLOCK_BOOTTIME:
    case CLOCK_BOOTTIME_ALARM: return offsets_[2];
    default: return {};
  }
}

Clocks::Now Clocks::now() const {
  Now now;
  for (std::size_t i = 0; i < kMoved.size(); ++i) now[i] = guest(kMoved[i], host_now(kMoved[i]));
  return now;
}

void Clocks::go_on_from(const Now& shown) {
  for (std::size_t i = 0; i < kMoved.size(); ++i) offsets_[i] = add(shown[i], negative(host_now(kMoved[i])));
}

timespec Clocks::guest(clockid_t clock, const timespec& host) const { return add(host, offset(clock)); }

timespec Clocks::host(clockid_t clock, const timespec& guest) const {
  const timespec by = offset(clock);
  // Far in the future the sum of two may be more than there is.
  if (by.tv_sec < 0) return sum(guest, negative(by));
  const timespec moved = add(guest, negative(by));
  return moved.tv_sec < 0 ? timespec{} : moved;
}

timespec Clocks::host_timer(clockid_t clock, const timespec& guest) const {
  if (!valid_time(guest) || (guest.tv_sec == 0 && guest.tv_nsec == 0)) return guest;
  const timespec on_host = host(clock, guest);
  return on_host.tv_sec == 0 && on_host.tv_nsec == 0 ? timespec{0, 1} : on_host;
}

}  // namespace ramet::vmm
