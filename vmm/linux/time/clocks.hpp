// The clocks of a guest: the host's, but those that count from its start are moved for a program that goes on from a
// snapshot, so that they go on as well, whatever host it is on and however long it was not running. For all processes
// of a family; set before the first one runs.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <ctime>

namespace ramet::vmm {

inline constexpr std::int64_t kNanosPerSecond = 1'000'000'000;

// Arithmetic on times whose nanoseconds are below a second; seconds may be negative unless it says otherwise.
constexpr bool is_zero(const timespec& t) { return t.tv_sec == 0 && t.tv_nsec == 0; }
timespec sum(const timespec&, const timespec&);         // INT64_MAX seconds where it would be more
timespec difference(const timespec&, const timespec&);  // of times that are not negative; 0 where it would be less
// Of a time that is not negative; nanoseconds::max() where it would be more.
std::chrono::nanoseconds to_nanoseconds(const timespec&);
timespec to_timespec(std::chrono::nanoseconds);  // of what is not negative
// What a clock of the host shows; 0 if it cannot be read.
timespec host_now(clockid_t);

class Clocks {
 public:
  // Of the clocks that are moved, what a program sees now: CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_BOOTTIME.
  using Now = std::array<timespec, 3>;
  Now now() const;
  timespec now(clockid_t clock) const { return guest(clock, host_now(clock)); }
  // They show this now. The times are valid, and less than a million years.
  void go_on_from(const Now&);

  // What is added to the host's clock of that id: nanoseconds are not negative, seconds may be.
  timespec offset(clockid_t) const;
  timespec guest(clockid_t, const timespec& host) const;
  // A valid time that the guest gave, on the host's clock; the clock's beginning for what lies before that.
  timespec host(clockid_t, const timespec& guest) const;
  // The same for what a timer is set to: 0, which stops it, stays 0, and nothing else becomes 0. A time that is not
  // valid stays as it is: the host refuses it.
  timespec host_timer(clockid_t, const timespec& guest) const;

 private:
  std::array<timespec, 3> offsets_{};
};

}  // namespace ramet::vmm
