// The host signal that makes a host thread leave what it waits in: KVM_RUN, or a system call made by
// Thread::blocking(). One signal for both, so that one handler is enough.
//
// The handler itself only moves an interrupted Thread::blocking() to its way out (see
// arch/interruptible.hpp). KVM_RUN returns EINTR by itself when a signal arrives; whoever kicks a
// vCPU sets immediate_exit first, then sends this signal to the host thread that runs it.
#pragma once

namespace ramet::vmm {

int kick_signal();

// Installs the handler and unblocks the signal in the calling thread. Idempotent, from any thread; new
// host threads inherit the mask. Call it before the first kick can come.
void install_kick_signal();

}  // namespace ramet::vmm
