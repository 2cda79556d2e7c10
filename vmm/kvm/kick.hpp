// The signal that makes KVM_RUN return: the kick signal of vmm/kick_signal.hpp. Its arrival is the message.
#pragma once

namespace ramet::vmm::kvm {

// The calling thread's id, as kick_thread() wants it; lets the kick signal through on this thread.
int prepare_thread_for_kicks();
// Harmless if the thread has ended.
void kick_thread(int tid);

}  // namespace ramet::vmm::kvm
