// Instructions that were written as data, where the processor's instruction caches do not notice that by themselves.
// The twins' host/exec_sync.cpp; on x86-64 there is nothing to do.
#pragma once

#include <cstddef>

namespace ramet::arch {

// What lies in [start, start + bytes) now is what every processor fetches there, at whatever address it is mapped, once
// it has returned from the kernel. Pages that cannot be reached are passed over. After install_guard().
void exec_sync(const std::byte* start, std::size_t bytes);

// Whether it takes more than a barrier: fetches here do not see what was written by themselves.
bool exec_sync_needed();

// Why this host's caches cannot be made to fetch that, as a sentence; null if they can.
const char* exec_sync_problem();

}  // namespace ramet::arch
