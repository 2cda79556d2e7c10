// Locked memory: mlock(2), mlockall(2) and MAP_LOCKED, within RLIMIT_MEMLOCK. Nothing is pinned on the host: locked
// memory is populated, counted, and refused to MADV_DONTNEED.
#pragma once

#include "guest-mm/address_space.hpp"

namespace ramet::vmm {

class Thread;

std::uint64_t locked_bytes(const mm::AddressSpace&);
// Whether `more` locked bytes would exceed RLIMIT_MEMLOCK. Threads with CAP_IPC_LOCK have no limit.
bool beyond_lock_limit(Thread&, std::uint64_t more);
// Marks the request as locked if `asked` (MAP_LOCKED), or after mlockall(2) with MCL_FUTURE. 0, -EPERM, or -EAGAIN
// beyond the limit.
std::int64_t lock_as_asked(Thread&, mm::MapRequest&, bool asked);
// Populates [start, end). 0, -EAGAIN if memory is short, or -ENOMEM where nothing is mapped or access is not permitted.
std::int64_t populate_locked(Thread&, mm::Gva start, mm::Gva end);

}  // namespace ramet::vmm
