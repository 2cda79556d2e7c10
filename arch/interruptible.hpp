// A host system call that an interruption cannot slip past, as musl's cancellation points do it.
//
//   begin:  if (*interrupted) goto abort
//           SYSCALL                        the signal's handler, finding the program counter in
//   end:    return its result              [begin, end), moves it to abort
//   abort:  return -EINTR
//
// A thread that is to be interrupted gets its word set first, the signal second. Whenever the signal
// arrives between the check and the kernel's taking the call, the handler sees a program counter in the
// window; once the call waits, the kernel ends it or backs out to the SYSCALL, which is in the window too.
#pragma once

#include <cstdint>

namespace ramet::arch {

// Makes host call `number`; -EINTR at once if *interrupted is or becomes set before the call has taken effect.
extern "C" std::int64_t ramet_interruptible_syscall(const std::uint32_t* interrupted, long number,
                                                    const std::uint64_t arguments[6]);

// The same without the first look at *interrupted: only a signal that comes from now on ends the call.
extern "C" std::int64_t ramet_interruptible_again(const std::uint32_t* interrupted, long number,
                                                  const std::uint64_t arguments[6]);

// Installs the handler for `signal`, which then interrupts these calls; other calls are restarted after it
// (SA_RESTART). Uses the system call itself: under ThreadSanitizer a handler given to sigaction(3) runs at the thread's
// next library call, and a thread that waits here makes none. False: the signal cannot be handled.
bool install_interrupting_signal(int signal);

}  // namespace ramet::arch
