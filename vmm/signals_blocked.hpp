// Signal masks of host threads. The host's signals are for the program's own thread, which passes them on.
#pragma once

#include <signal.h>

#include "vmm/kick_signal.hpp"

namespace ramet::vmm {

// Whether a SIGPIPE waits for this thread, which blocks it: a write to a pipe without readers raised it.
inline bool broken_pipe_pending() {
  sigset_t pending;
  return sigpending(&pending) == 0 && sigismember(&pending, SIGPIPE) == 1;
}
// Takes a pending SIGPIPE off this thread, which blocks it. None pending is fine.
inline void discard_broken_pipe() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGPIPE);
  const timespec at_once{};
  (void)sigtimedwait(&set, nullptr, &at_once);
}

// Blocks every signal but the kick and the host's own faults while a host thread is made, which inherits that. Those
// are let through whatever the caller's mask: a thread that blocks them is killed by what the guard handles
// (arch/guarded.hpp).
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

// The signals of a caller's thread while it runs a guest: the kick and the host's own faults come through, and SIGPIPE,
// which a write to a pipe without readers raises in the writing thread, is kept from the VMM until broken_pipe() takes
// it off. Threads made under SignalsBlocked have all of that. Afterwards they are as they were.
class CallerSignals {
 public:
  CallerSignals() {
    sigset_t set;
    pthread_sigmask(SIG_SETMASK, nullptr, &old_);
    pipe_was_pending_ = broken_pipe_pending();
    install_kick_signal();
    sigemptyset(&set);
    for (int sig : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT}) sigaddset(&set, sig);
    pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
    sigemptyset(&set);
    sigaddset(&set, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
  }
  ~CallerSignals() {
    if (!pipe_was_pending_) discard_broken_pipe();  // of a ring's write
    pthread_sigmask(SIG_SETMASK, &old_, nullptr);
  }
  CallerSignals(const CallerSignals&) = delete;
  CallerSignals& operator=(const CallerSignals&) = delete;

 private:
  sigset_t old_;
  bool pipe_was_pending_ = false;
};

}  // namespace ramet::vmm
