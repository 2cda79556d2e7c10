// Makes instruction fetches see code that was written as data. Implemented in the twins' host/exec_sync.cpp; on x86-64
// there is nothing to do.
#pragma once

#include <cstddef>

namespace ramet::arch {

// Every processor fetches what [start, start + bytes) holds now, at whatever address it is mapped, after its next
// return from the kernel. Pages that cannot be reached are skipped. Precondition: install_guard() was called.
void exec_sync(const std::byte* start, std::size_t bytes);

// Whether caches need maintenance here, or fetches see all stores by themselves.
bool exec_sync_needed();

// Why exec_sync() cannot work with this host's caches, as a sentence; null if it can.
const char* exec_sync_problem();

}  // namespace ramet::arch
