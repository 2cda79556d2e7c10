// Signal masks of host threads. Threads of the VMM take none of the signals that are sent to its process.
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

// Signals by which the kernel reports a fault of the thread itself.
inline constexpr int kFaults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT};

// Blocks every signal but the kick and faults in the calling thread as long as it lives; threads that are made
// meanwhile inherit the mask. Faults are let through whatever the mask was: a thread that blocks them is killed by a
// fault that the guard would handle (arch/guarded.hpp).
class SignalsBlocked {
 public:
  // For a process to be made that must not run a handler of ours: not even those come through.
  struct All {};

  SignalsBlocked() {
    sigset_t set;
    sigfillset(&set);
    for (int sig : kFaults) sigdelset(&set, sig);
    sigdelset(&set, kick_signal());
    pthread_sigmask(SIG_SETMASK, &set, &old_);
  }
  explicit SignalsBlocked(All) {
    sigset_t set;
    sigfillset(&set);
    pthread_sigmask(SIG_SETMASK, &set, &old_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &old_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t old_;
};

// The mask of a caller's thread while it runs a guest: the kick and faults come through, and SIGPIPE, which a write to
// a pipe without readers raises in the writing thread, is blocked until broken_pipe() takes it off. Threads made under
// SignalsBlocked have such a mask already. The destructor restores the caller's.
class CallerSignals {
 public:
  CallerSignals() {
    sigset_t set;
    pthread_sigmask(SIG_SETMASK, nullptr, &old_);
    pipe_was_pending_ = broken_pipe_pending();
    install_kick_signal();
    sigemptyset(&set);
    for (int sig : kFaults) sigaddset(&set, sig);
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
