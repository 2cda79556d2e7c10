// signalfd(2): a descriptor to read pending signals from. What a process has pending is known here only, and who polls
// or waits in an epoll does that in the host: so the descriptor is one end of a host socket, with a byte in it while
// somebody who has it open may have a signal for it. Too early a byte is harmless: the read that finds no signal takes
// it away. A missing one would not be.
#pragma once

#include <atomic>
#include <cstdint>

#include "vmm/linux/files/files.hpp"
#include "vmm/linux/files/operations.hpp"
#include "vmm/linux/signals/state.hpp"
#include "vmm/linux/user_memory.hpp"

namespace ramet::vmm {

struct SignalFd : FileOperations {
  SignalFd(SignalSet wanted, HostFd other_end) : mask(wanted), teller(std::move(other_end)) {}
  // Whole signalfd_siginfo. Waits unless O_NONBLOCK.
  std::optional<std::int64_t> read(Thread&, const OpenFile&, const UserBuffers&, std::int64_t offset) override;
  std::optional<std::int64_t> write(Thread&, const OpenFile&, const UserBuffers&, std::int64_t offset) override;

  std::atomic<SignalSet> mask;  // a store is followed by a look at what is pending; pairs with nothing else
  HostFd teller;                // the socket's other end
};

// Precondition: kind Signal.
inline SignalFd& signal_fd_of(const OpenFile& file) { return static_cast<SignalFd&>(*file.operations); }
// One that nobody has yet. `flags`: SFD_NONBLOCK. Errors: those of socketpair(2).
OrErrno<std::shared_ptr<OpenFile>> make_signal_fd(SignalSet, int flags);
// The process has it open, and is to tell it of its signals from now on.
void tell_from_now_on(Process&, const std::shared_ptr<OpenFile>&);

// The signal was queued for the process: descriptors that want it become readable. Under the process's signals.lock.
void tell_signal_fds(Process&, int sig);

}  // namespace ramet::vmm
