// Arithmetic on times, and the clocks of a guest. These are the host's, but clocks that count from the start of the
// host have an offset in a program that goes on from a snapshot: they go on from where they were saved, on any host and
// after any pause.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <ctime>

namespace ramet::vmm {

inline constexpr std::int64_t kNanosPerSecond = 1'000'000'000;

// Arithmetic on times whose nanoseconds are below a second; seconds may be negative unless it says otherwise.
constexpr bool is_zero(const timespec& t) { return t.tv_sec == 0 && t.tv_nsec == 0; }
timespec sum(const timespec&, const timespec&);  // INT64_MAX seconds where it would be more
timespec difference(const timespec&, const timespec&);  // of times that are not negative; 0 where it would be less
// Of a time that is not negative; nanoseconds::max() where it would be more.
std::chrono::nanoseconds to_nanoseconds(const timespec&);
timespec to_timespec(std::chrono::nanoseconds);  // of what is not negative
// What a clock of the host shows; 0 if it cannot be read.
timespec host_now(clockid_t);

// One for all processes of a family; set before the first one runs.
class Clocks {
 public:
  // What a program sees now of the clocks with an offset: CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_BOOTTIME.
  using Now = std::array<timespec, 3>;
  Now now() const;
  timespec now(clockid_t clock) const { return guest(clock, host_now(clock)); }
  // Makes them show this now. Precondition: the times are valid, and less than a million years.
  void go_on_from(const Now&);

  // What is added to the host's clock of that id: nanoseconds are not negative, seconds may be.
  timespec offset(clockid_t) const;
  timespec guest(clockid_t, const timespec& host) const;
  // A valid time of the guest's clock as a time of the host's; 0 where it would be negative.
  timespec host(clockid_t, const timespec& guest) const;
  // The same for a time that a timer is set to: 0, which stops it, stays 0, and nothing else becomes 0. A time that is
  // not valid stays as it is: the host refuses it.
  timespec host_timer(clockid_t, const timespec& guest) const;

 private:
  std::array<timespec, 3> offsets_{};
};

}  // namespace ramet::vmm
