#include "vmm/kvm/kick.hpp"

#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <mutex>

namespace ramet::vmm::kvm {

void install_kick_handler() {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction action = {};
    action.sa_handler = [](int) {};
    // KVM_RUN returns whatever the flags say; other calls of the thread are not disturbed by a late kick.
    action.sa_flags = SA_RESTART;
    sigaction(kick_signal(), &action, nullptr);  // cannot fail: a valid signal and a valid action
  });
}

int prepare_thread_for_kicks() {
  thread_local const int tid = [] {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, kick_signal());
    pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
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
