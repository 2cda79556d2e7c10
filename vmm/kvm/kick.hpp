// The signal that makes KVM_RUN return. One per process, handler without effect: its arrival is the message.
#pragma once

#include <csignal>

namespace ramet::vmm::kvm {

// Reserved for this purpose in every process that uses the library: SIGRTMIN + 5.
inline int kick_signal() { return SIGRTMIN + 5; }

// Installs the handler, once per process.
void install_kick_handler();
// The calling thread's id, as kick_thread() wants it; lets the kick signal through on this thread.
int prepare_thread_for_kicks();
// Harmless if the thread has ended.
void kick_thread(int tid);

}  // namespace ramet::vmm::kvm
