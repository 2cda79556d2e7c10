// For host threads of ours: the host's signals are for the program's own thread, which passes them on.
#pragma once

#include <signal.h>

#include "vmm/kick_signal.hpp"

namespace ramet::vmm {

// Blocks every signal but the kick and the host's own faults while a host thread is made, which inherits that. Those are
// let through whatever the caller's mask: a thread that blocks them is killed by what the guard handles (arch/guarded.hpp).
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t set;
    sigfillset(&set);
    for (int sig : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, kick_signal()}) sigdelset(&set, sig);
    pthread_sigmask(SIG_SETMASK, &set, &old_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &old_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t old_;
};

}  // namespace ramet::vmm
