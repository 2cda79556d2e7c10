// Times that come from a guest: checked, converted and added here and nowhere else, as Linux does it. A guest may give
// any numbers. A moment that a sum would miss is the last there is, so a sum never comes out earlier than what it was
// made of.
#pragma once

#include <sys/time.h>

#include <cstdint>
#include <ctime>

#include "vmm/linux/time/clocks.hpp"
#include "vmm/linux/user_memory.hpp"

namespace ramet::vmm {

// Not negative, and less than a second of nanoseconds: what Linux accepts as a time to wait for.
bool valid_time(const timespec&);
// EFAULT; EINVAL: not valid.
OrErrno<timespec> read_time(mm::AddressSpace&, mm::Gva at);

// Microseconds below a second. EINVAL: they are not.
OrErrno<timespec> to_timespec(const timeval&);
// Any number of microseconds, as select(2) takes it. EINVAL: the sum is not valid.
OrErrno<timespec> carried(const timeval&);
timeval to_timeval(const timespec&);
// ms is not negative.
timespec from_milliseconds(int ms);
// Rounded up; INT_MAX where it would be more. The time is valid.
int to_milliseconds(const timespec&);
// A number that tells moments apart, and no more: it wraps, as files may have any time.
std::int64_t nanoseconds(const timespec&);

// On a clock of the host. One that cannot be read is at 0; waiting on it fails.
timespec deadline_after(clockid_t, const timespec& wait);
timespec time_left(clockid_t, const timespec& deadline);

}  // namespace ramet::vmm
