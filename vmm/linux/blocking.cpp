// Interruptible waits, and the kick signal whose handler ends them.
#include "vmm/linux/blocking.hpp"

#include <signal.h>

#include <cerrno>

#include "arch/interruptible.hpp"
#include "vmm/kick_signal.hpp"

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

void Interruption::raise(pthread_t owner) {
  set();
  if (waiting_.load(std::memory_order_seq_cst)) pthread_kill(owner, kick_signal());
}

std::int64_t Interruption::wait(long number, const std::array<std::uint64_t, 6>& arguments) {
  static_assert(sizeof(word_) == sizeof(std::uint32_t) && std::atomic<std::uint32_t>::is_always_lock_free);
  waiting_.store(true, std::memory_order_seq_cst);
  std::int64_t result;
  do {
    result = arch::ramet_interruptible_syscall(reinterpret_cast<const std::uint32_t*>(&word_), number,
                                                       arguments.data());
    // A signal that was not meant for us (a kick of the vCPU that came late): wait on.
  } while (result == -EINTR && !raised());
  waiting_.store(false, std::memory_order_release);
  return result;
}

}  // namespace ramet::vmm
