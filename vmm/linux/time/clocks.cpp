#include "vmm/linux/time/clocks.hpp"

#include "vmm/linux/checked.hpp"
#include "vmm/linux/time/guest_time.hpp"

namespace ramet::vmm {
namespace {

constexpr std::array<clockid_t, 3> kMoved{CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_BOOTTIME};

timespec negative(const timespec& a) {
  if (a.tv_nsec == 0) return {-a.tv_sec, 0};
  return {-a.tv_sec - 1, kNanosPerSecond - a.tv_nsec};
}

}  // namespace

timespec sum(const timespec& a, const timespec& b) {
  const std::int64_t nanos = a.tv_nsec + b.tv_nsec;
  auto seconds = checked_sum<std::int64_t>(a.tv_sec, b.tv_sec);
  if (seconds) seconds = checked_sum<std::int64_t>(*seconds, nanos / kNanosPerSecond);
  return seconds ? timespec{*seconds, nanos % kNanosPerSecond} : timespec{INT64_MAX, 0};
}

timespec difference(const timespec& a, const timespec& b) {
  const timespec rest = sum(a, negative(b));
  return rest.tv_sec < 0 ? timespec{} : rest;
}

std::chrono::nanoseconds to_nanoseconds(const timespec& t) {
  constexpr auto kLast = std::chrono::nanoseconds::max();
  if (t.tv_sec >= kLast / std::chrono::seconds(1)) return kLast;
  return std::chrono::seconds(t.tv_sec) + std::chrono::nanoseconds(t.tv_nsec);
}

timespec to_timespec(std::chrono::nanoseconds n) { return {n.count() / kNanosPerSecond, n.count() % kNanosPerSecond}; }

timespec host_now(clockid_t clock) {
  timespec now{};
  ::clock_gettime(clock, &now);
  return now;
}

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
  for (std::size_t i = 0; i < kMoved.size(); ++i) now[i] = this->now(kMoved[i]);
  return now;
}

void Clocks::go_on_from(const Now& shown) {
  for (std::size_t i = 0; i < kMoved.size(); ++i) offsets_[i] = sum(shown[i], negative(host_now(kMoved[i])));
}

timespec Clocks::guest(clockid_t clock, const timespec& host) const { return sum(host, offset(clock)); }

timespec Clocks::host(clockid_t clock, const timespec& guest) const {
  const timespec moved = sum(guest, negative(offset(clock)));
  return moved.tv_sec < 0 ? timespec{} : moved;
}

timespec Clocks::host_timer(clockid_t clock, const timespec& guest) const {
  if (!valid_time(guest) || is_zero(guest)) return guest;
  const timespec on_host = host(clock, guest);
  return is_zero(on_host) ? timespec{0, 1} : on_host;
}

}  // namespace ramet::vmm
