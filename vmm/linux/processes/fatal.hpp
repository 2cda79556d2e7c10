// What people are told when a signal ends the program: which, where, and what it probably means.
#pragma once

#include <signal.h>

#include <exception>

#include "vmm/linux/processes/process.hpp"

namespace ramet::vmm {

class Thread;

// The ending by `info`, which nobody handled. Call without locks.
Ending fatal_ending(Thread&, const siginfo_t& info);

// The VM's memory is used up in the middle of an access, where no error can be returned. As Linux's
// out-of-memory killer: SIGKILL.
Ending out_of_memory(Thread&);

// The host lacks what the VMM needs to serve the guest (std::bad_alloc and the like). SIGKILL as well; without a
// message if there is no memory for one.
Ending host_failed(const std::exception&) noexcept;

// The ending by a signal without details, such as SIGKILL.
Ending killed_by(int sig);

}  // namespace ramet::vmm
