// What deliver.cpp and calls.cpp both need to know of stacks.
#pragma once

#include "guest-mm/types.hpp"

namespace ramet::vmm {

class Thread;

// True while sp lies on the thread's alternate signal stack (never for one set with SS_AUTODISARM).
bool on_alternate_stack(const Thread&, mm::Gva sp);

}  // namespace ramet::vmm
