// Collecting what a process is made of, but for its pages.
#pragma once

#include <expected>

#include "vmm/snapshot/state.hpp"

namespace ramet::vmm {
class Thread;
}

namespace ramet::vmm::snapshot {

// `first` has come to the moment of saving, by ramet_guest.h's call (`hook`) or by a read that will start again; all
// other threads are parked. Pages that only the host's own program file holds are read into memory, and what pipes hold
// is taken out: the program cannot go on. Errors: it has something that cannot be had again, by name.
std::expected<ProcessState, Failure> collect(Thread& first, bool hook);

}  // namespace ramet::vmm::snapshot
