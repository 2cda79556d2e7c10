// Futexes on guest memory, as other calls need them.
#pragma once

#include "guest-mm/address_space.hpp"

namespace ramet::vmm {

class Thread;

// FUTEX_WAKE. An address that is not mapped wakes nobody.
void wake_futex(mm::AddressSpace&, mm::Gva word, int count);

// What Linux does at a thread's exit with the robust list it registered: each lock on it that the thread
// holds is marked FUTEX_OWNER_DIED, and one waiter is woken. The list is the guest's: walked with a bound.
void release_robust_futexes(Thread&);

}  // namespace ramet::vmm
