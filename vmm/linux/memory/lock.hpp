// Locked memory: what mlock(2), mlockall(2) and MAP_LOCKED ask for, within RLIMIT_MEMLOCK. All memory of a guest is as
// resident as the host keeps it: to lock memory is to have it there, to count it, and to keep it from MADV_DONTNEED.
#pragma once

#include "guest-mm/address_space.hpp"

namespace ramet::vmm {

class Thread;

std::uint64_t locked_bytes(const mm::AddressSpace&);
// Whether `more` bytes would be too many for the thread.
bool beyond_lock_limit(Thread&, std::uint64_t more);
// Has the mapping locked, if that is `asked` for, or mlockall(2) did for all to come. 0, -EPERM, or -EAGAIN beyond the
// limit.
std::int64_t lock_as_asked(Thread&, mm::MapRequest&, bool asked);
// Has all there that may be touched. Errors: EAGAIN, when memory is short; ENOMEM, where nothing is mapped or may be
// touched.
std::int64_t populate_locked(Thread&, mm::Gva start, mm::Gva end);

}  // namespace ramet::vmm
