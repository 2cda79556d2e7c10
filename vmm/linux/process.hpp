// Process: one guest program: its memory, threads, signals and files.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <optional>
#include <utility>
#include <vector>

#include "guest-mm/address_space.hpp"
#include "vmm/error.hpp"
#include "vmm/linux/blocking.hpp"
#include "vmm/linux/files.hpp"
#include "vmm/linux/limits.hpp"
#include "vmm/linux/signal_state.hpp"
#include "vmm/machine.hpp"

namespace ramet::vmm {

class Thread;
class Timers;

// How a program ended, as wait(2) would tell: by exit(2), by a signal, or by us.
struct Ending {
  enum class Kind : std::uint8_t { Exited, Signalled, TimedOut, Broken } kind = Kind::Exited;
  int code = 0;            // exit status or signal number
  std::string message;     // for people: why a signal was fatal (address, program counter), or what broke
  int status() const;      // what `ramet run` exits with: code, 128+code, 124, 125
};

class Process {
 public:
  Process(Machine&, mm::AddressSpace&, Files);
  ~Process();

  Machine& machine;
  mm::AddressSpace& memory;
  Files files;
  ProcessSignals signals;
  Limits limits;                                // RLIMIT_*, see limits.hpp
  std::unique_ptr<Timers> timers;              // alarms and interval timers, see timers.hpp

  // Set by the loader before start().
  std::string executable;                       // guest path, for /proc/self/exe
  std::vector<std::string> arguments;           // /proc/self/cmdline
  std::vector<std::string> environment;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> auxv;  // /proc/self/auxv
  mm::Gva brk_start = 0, brk = 0;               // guarded by brk_lock
  std::mutex brk_lock;                          // lock order: before AddressSpace's
  mm::Gva stack_top = 0;
  std::uint64_t stack_limit = 8ull << 20;       // what the loader laid out; see load()
  const int pid;                                // also the first thread's tid

  // Policy, set before run().
  bool deny_wx = false;                         // mmap and mprotect refuse writable and executable (EACCES)

  // Signals that the host sends (SIGINT from a terminal and the like) and that the guest is to get.
  // Async-signal-safe: the first thread, interrupted, passes them on.
  void forward_from_handler(SignalSet set);
  void take_forwarded(Thread& by);              // does something on the first thread only

  // Runs the first thread on the calling host thread, at pc with stack pointer sp, until the whole
  // program has ended and every other host thread is joined.
  Ending run(mm::Gva pc, mm::Gva sp, std::optional<std::chrono::nanoseconds> timeout);

  // --- threads ---
  // A new guest thread that starts with `regs`. Returns the tid, or -errno (EAGAIN: no vCPU or host thread,
  // or the process is ending; EFAULT: a tid could not be stored).
  struct Spawn {
    UserRegs regs;
    std::optional<std::uint64_t> fs_base;
    mm::Gva set_parent_tid = 0, set_child_tid = 0, clear_child_tid = 0;
    std::uint64_t signal_mask = 0;
    const FpState* fp = nullptr;
    std::string name;
  };
  std::int64_t spawn(const Spawn&);
  Thread* find_thread(int tid);                 // null if none; valid under threads_lock only
  // Lock order: threads_lock > signals.lock > Timers' lock. Guest memory (AddressSpace's lock, which can take
  // long) is never touched under any of them, and no host call that can wait is made.
  std::mutex threads_lock;
  std::vector<std::unique_ptr<Thread>> threads; // guarded by threads_lock
  std::size_t thread_count();
  unsigned threads_ever() const { return threads_ever_.load(std::memory_order_relaxed); }

  // Ends the whole program; the first caller's word counts. Interrupts every thread.
  void end(Ending);
  Ending ended();                               // the first caller's word, or exit(2)'s status so far
  bool ending() const { return ending_.load(std::memory_order_acquire); }  // pairs with end()'s release

  // --- counters ---
  std::map<unsigned, std::uint64_t> unknown_calls();           // number -> how often
  std::map<unsigned, std::uint64_t> calls();                   // served calls by number
  void count_call(unsigned number, bool known);                // lock-free

  static constexpr unsigned kMaxCall = 512;

 private:
  friend class Thread;
  static void* thread_main(void*);
  std::unique_ptr<Thread> leave(Thread&);

  std::atomic<bool> ending_{false};
  std::mutex ending_lock_;                      // guards result_; a leaf
  std::optional<Ending> result_;
  // The following are guarded by threads_lock.
  std::optional<pthread_t> last_gone_;          // the host thread that ended last; joined by the next that ends
  int next_tid_;
  int leader_status_ = 0;                       // exit(2)'s argument of the first thread

  // run() waits for this to become 0 once the first thread is over; a futex word. Pairs: the decrement at
  // the end of each host thread (release) with run()'s load (acquire).
  std::atomic<std::uint32_t> live_{0};
  std::atomic<std::uint64_t> forwarded_{0};     // pairs: handler's fetch_or with take_forwarded()'s exchange
  std::atomic<Thread*> first_{nullptr};         // set while run() runs; read by the handler on the same thread
  std::atomic<unsigned> threads_ever_{0};       // a statistic
  std::array<std::atomic<std::uint64_t>, kMaxCall> calls_{}, unknown_{};  // statistics
};

}  // namespace ramet::vmm
