// signalfd(2): a descriptor to read pending signals from. poll(2) and epoll wait in the host, which does not know what
// is pending in a guest's process. So the descriptor is one end of a pair of host sockets, with a byte to read while a
// process that has it open may have a signal for it. A byte without a signal is harmless: the read that finds none
// takes the byte out. A signal without a byte would not wake those who wait.
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

  std::atomic<SignalSet> mask;  // a store is followed by look_again(); pairs with nothing else
  HostFd teller;                // the socket's other end
};

// Precondition: kind Signal.
inline SignalFd& signal_fd_of(const OpenFile& file) { return static_cast<SignalFd&>(*file.operations); }
// A new one, in no table yet. `flags`: SFD_NONBLOCK. Errors: those of socketpair(2).
OrErrno<std::shared_ptr<OpenFile>> make_signal_fd(SignalSet, int flags);
// From now on, signals of the process make the file readable. Precondition: the process has it open.
void tell_from_now_on(Process&, const std::shared_ptr<OpenFile>&);

// The signal was queued for the process: descriptors that want it become readable. Under the process's signals.lock.
void tell_signal_fds(Process&, int sig);

}  // namespace ramet::vmm
