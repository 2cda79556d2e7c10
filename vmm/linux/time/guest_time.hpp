// Times that come from a guest: checked and converted here and nowhere else, as Linux does it. A guest may give any
// numbers. Sums saturate (clocks.hpp), so a deadline is never earlier than the times it is made of.
#pragma once

#include <sys/time.h>

#include <cstdint>
#include <ctime>

#include "vmm/linux/time/clocks.hpp"
#include "vmm/linux/user_memory.hpp"

namespace ramet::vmm {

// Not negative, and less than a second of nanoseconds: what Linux accepts as a time to wait for.
bool valid_time(const timespec&);
// Errors: EFAULT; EINVAL: not valid.
OrErrno<timespec> read_time(mm::AddressSpace&, mm::Gva at);

// Errors: EINVAL unless the microseconds are below a second.
OrErrno<timespec> to_timespec(const timeval&);
// Any number of microseconds, as select(2) takes it. Errors: EINVAL: the sum is not valid.
OrErrno<timespec> carried(const timeval&);
timeval to_timeval(const timespec&);
// Precondition: ms is not negative.
timespec from_milliseconds(int ms);
// Rounded up; INT_MAX where it would be more. Precondition: the time is valid.
int to_milliseconds(const timespec&);
// Only good to tell two moments apart: files may have any time, and the number wraps.
std::int64_t nanoseconds(const timespec&);

// On a clock of the host. One that cannot be read counts as 0: waiting on it fails.
timespec deadline_after(clockid_t, const timespec& wait);
timespec time_left(clockid_t, const timespec& deadline);

}  // namespace ramet::vmm
