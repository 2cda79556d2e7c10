#include "vmm/kick_signal.hpp"

#include <pthread.h>
#include <signal.h>

#include "arch/interruptible.hpp"

namespace ramet::vmm {

// A standard signal: real-time ones are queued, and cannot be sent (EAGAIN) once some program of the same
// user has filled the queue of RLIMIT_SIGPENDING. Nothing on Linux raises this one.
int kick_signal() { return SIGSTKFLT; }

void install_kick_signal() {
  // A valid signal number: it cannot fail.
  [[maybe_unused]] static const bool installed = arch::install_interrupting_signal(kick_signal());
  sigset_t kick;
  sigemptyset(&kick);
  sigaddset(&kick, kick_signal());
  pthread_sigmask(SIG_UNBLOCK, &kick, nullptr);
}

}  // namespace ramet::vmm
