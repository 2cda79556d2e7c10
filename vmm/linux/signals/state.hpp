// The signal state of processes and threads, and how signals are sent and delivered.
#pragma once

#include <signal.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "arch/signal_frame.hpp"
#include "guest-mm/thread_annotations.hpp"
#include "guest-mm/types.hpp"

namespace ramet::vmm {

class Process;
class Thread;
struct OpenFile;

inline constexpr int kSignals = 64;
inline constexpr int kAutodisarm = static_cast<int>(1u << 31);  // SS_AUTODISARM, which <signal.h> leaves out
using SignalSet = std::uint64_t;                // bit n-1 is signal n
constexpr SignalSet bit_of(int sig) { return 1ull << (sig - 1); }

// The kernel's own struct sigaction (rt_sigaction), x86-64 and arm64 alike.
struct SignalAction {
  std::uint64_t handler = 0;                    // SIG_DFL 0, SIG_IGN 1
  std::uint64_t flags = 0;
  std::uint64_t restorer = 0;
  SignalSet mask = 0;
};

// Pending signals in order of arrival. A standard signal is queued once, a real-time signal each time it is sent, and a
// POSIX timer's once for each timer.
struct PendingSignals {
  SignalSet set = 0;
  std::deque<siginfo_t> queue;
};

struct ProcessSignals {
  Mutex lock;  // guards every thread's ThreadSignals as well
  std::array<SignalAction, kSignals> actions RAMET_GUARDED_BY(lock){};
  PendingSignals pending RAMET_GUARDED_BY(lock);
  // The process's signalfds, made or inherited; some may be closed.
  std::vector<std::weak_ptr<OpenFile>> fds RAMET_GUARDED_BY(lock);
  // A futex word: 1 while the process is stopped (SIGSTOP and its like). Written under the lock; its threads wait for
  // it without, before they go back to the guest.
  std::atomic<std::uint32_t> stopped{0};
  // A stop signal was taken, and stops the process unless SIGCONT comes first.
  bool stopping RAMET_GUARDED_BY(lock) = false;
  std::uint64_t changes RAMET_GUARDED_BY(lock) = 0;  // how often it was stopped or continued
};

// Guarded by ProcessSignals::lock. Only the thread itself writes `blocked`, `saved_mask` and `altstack` once it runs:
// it reads them without the lock.
struct ThreadSignals {
  PendingSignals pending;
  SignalSet blocked = 0;
  SignalSet awaited = 0;  // sigtimedwait: wakes for these although they are blocked
  std::deque<siginfo_t> faults;  // of send_fault(): delivered before all others
  std::optional<SignalSet> saved_mask;  // sigsuspend, ppoll, ...: restored after delivery
  arch::SignalStack altstack{.flags = SS_DISABLE};
};

inline constexpr SignalSet kUnblockable = bit_of(SIGKILL) | bit_of(SIGSTOP);
inline constexpr SignalSet kDefaultIgnored = bit_of(SIGCHLD) | bit_of(SIGURG) | bit_of(SIGWINCH) | bit_of(SIGCONT);
inline constexpr SignalSet kStopSignals = bit_of(SIGSTOP) | bit_of(SIGTSTP) | bit_of(SIGTTIN) | bit_of(SIGTTOU);

// Takes the next signal of `wanted` out of the queue, in Linux's order (lowest number first); under the lock.
std::optional<siginfo_t> take_signal(PendingSignals&, SignalSet wanted);
// From the thread's own queue first, then from the process's. Under the lock.
std::optional<siginfo_t> take_signal(Thread&, SignalSet wanted);
// How many signals wait in the queues of the process and its threads. Under threads_lock and the signals' lock.
std::size_t queued_signals(const Process&);
// Throws away what is pending of these signals; under the lock.
void discard_signals(PendingSignals&, SignalSet);

// Sets the calling thread's mask. Signals pending in the process that it now blocks are left to other threads.
void set_blocked(Thread&, SignalSet);
// Interrupts other threads for the signals of `set` that are pending in the process, as `except` does not take them.
void retarget_signals(Process&, const Thread& except, SignalSet set);

siginfo_t signal_from(const Process& sender, int sig, int code);

// Sends to the process (any thread that does not block the signal) or to one thread, and interrupts the thread that is
// to take it. Ignored signals vanish. Queues are bounded by RLIMIT_SIGPENDING (EAGAIN). SIGKILL ends the process,
// SIGCONT lets it go on, at once and whatever is blocked. Takes threads_lock and signals.lock; SIGCONT takes Family's
// lock. Returns 0 or -errno.
std::int64_t send_to_process(Process&, const siginfo_t&);
std::int64_t send_to_thread(Process&, int tid, const siginfo_t&);

// Waits until a signal is to be delivered. Returns what pause(2) does: kRestartNoHand.
std::int64_t wait_for_signal(Thread&);

// A fault of the thread itself (SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP): delivered at once, and fatal
// if it is blocked or ignored. error and trap go into the ucontext, as Linux fills them.
void send_fault(Thread&, int sig, int code, mm::Gva address, std::uint64_t trap, std::uint64_t error);

// Before each return to the guest: runs handlers (builds frames), applies default actions, restarts
// interrupted calls. `call_result` is the pending result of a system call; kNoResult if the exit was none.
void deliver_signals(Thread&, std::int64_t call_result);

}  // namespace ramet::vmm
