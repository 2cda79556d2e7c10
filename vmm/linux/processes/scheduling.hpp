// How guest threads are scheduled. Nice values and processors reach the threads of the host (Thread::set_nice(),
// Thread::set_affinity()); policies, real-time priorities and those of input and output are only kept and shown: host
// threads have the VMM's own.
#pragma once

#include <sched.h>

namespace ramet::vmm {

// What sched_setscheduler(2) and ioprio_set(2) gave a thread, or what it inherited.
struct Scheduling {
  int policy = SCHED_OTHER;
  int priority = 0;             // of SCHED_FIFO and SCHED_RR: 1 to 99
  bool reset_on_fork = false;
  unsigned io_priority = 0;     // class and level, as ioprio_set(2) takes them; 0: by the nice value
  bool operator==(const Scheduling&) const = default;
};

constexpr int kMostPriority = 99;
constexpr bool real_time(int policy) { return policy == SCHED_FIFO || policy == SCHED_RR; }
// Whether sched_setscheduler(2) could have set this.
bool possible(const Scheduling&);
// Changes the settings and the nice value of a creator to those that its new thread begins with.
void inherit(Scheduling&, int& nice);
// The priority of input and output that a thread has in effect.
unsigned io_priority(const Scheduling&, int nice);
// ioprio_set(2)'s last argument: 0, EINVAL, or EPERM where it asks for a privilege.
int refused_io_priority(unsigned wanted, bool privileged);

}  // namespace ramet::vmm
