#include "vmm/kvm/kick.hpp"

#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "vmm/kick_signal.hpp"

namespace ramet::vmm::kvm {

int prepare_thread_for_kicks() {
  thread_local const int tid = [] {
    install_kick_signal();
    return int(syscall(SYS_gettid));
  }();
  return tid;
}

// By kernel thread id and not by pthread_t: for a thread that has ended this is an error, not undefined.
void kick_thread(int tid) {
  int saved = errno;  // callers may be signal handlers
  syscall(SYS_tgkill, getpid(), tid, kick_signal());
  errno = saved;
}

}  // namespace ramet::vmm::kvm
