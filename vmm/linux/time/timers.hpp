// Interval timers and POSIX timers of a guest program (alarm, setitimer, timer_create).
#pragma once

#include <signal.h>
#include <time.h>

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <optional>
#include <thread>
#include <variant>
#include <vector>

#include "guest-mm/thread_annotations.hpp"
#include "vmm/linux/user_memory.hpp"

namespace ramet::vmm {

class Process;

// A clock of processor time, which no clock of the host tells: the VMM serves several guest processes, and guest code
// may run in processes of its own.
struct ProcessorClock {
  bool of_thread = false;
  int id = 0;                 // the guest process, or the thread of the guest process that asks
  // Errors: EINVAL, there is no such process or thread (any more).
  OrErrno<std::chrono::nanoseconds> now(Process& asking) const;
};

// How long to wait before as much processor time can have passed, on all processors at once: a tick at least, twice
// that for each doubling.
std::chrono::nanoseconds soonest(std::chrono::nanoseconds left, unsigned doublings = 0);

// Every guest timer is a host POSIX timer on the same clock, so that intervals and absolute times are the host
// kernel's. Host timers signal one thread of the VMM, which passes them on as guest signals; it is started with the
// first timer. Timers of processor time are looked at by that thread, as often as they could have expired: like
// Linux's, some milliseconds late. A timer that is set anew, stopped or removed has told of all that expired before, as
// Linux's have: no signal of it comes later. Thread-safe; lock order: threads_lock > Timers' lock >
// ProcessSignals::lock, Limits::lock.
class Timers {
 public:
  explicit Timers(Process& process) : process_(process) {}
  ~Timers() { stop(); }
  void stop() RAMET_EXCLUDES(lock_);  // deletes every timer and joins the thread. From then on there are none
  Timers(const Timers&) = delete;
  Timers& operator=(const Timers&) = delete;

  // How an expiry is told. tid 0: the process.
  struct Notify {
    int signal = 0;  // 0: not at all (SIGEV_NONE)
    int tid = 0;
    std::optional<std::uint64_t> value;  // si_value; without one, the timer's id
  };
  using Clock = std::variant<clockid_t, ProcessorClock>;
  // Returns the timer's id, or -errno (EAGAIN: too many).
  std::int64_t create(const Clock&, const Notify&) RAMET_EXCLUDES(lock_);
  // 0 or -errno (EINVAL: no such timer). `old` may be null. An absolute time is on the guest's clock.
  std::int64_t set(int id, int flags, const itimerspec& value, itimerspec* old) RAMET_EXCLUDES(lock_);
  std::int64_t get(int id, itimerspec& value) RAMET_EXCLUDES(lock_);
  // Of the expiry that the program was told of last.
  std::int64_t overrun(int id) RAMET_EXCLUDES(lock_);
  // The program takes this signal, a timer's or any other. Without the lock of ProcessSignals.
  void taken(const siginfo_t&) RAMET_EXCLUDES(lock_);
  std::int64_t remove(int id) RAMET_EXCLUDES(lock_);
  std::size_t posix_count() RAMET_EXCLUDES(lock_);  // how many timers timer_create(2) made
  void remove_posix() RAMET_EXCLUDES(lock_);  // execve(2): all that timer_create(2) made

  // ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF; which is one of them. The last two count alike: of processor time, nobody
  // knows what the guest took and what was taken for it.
  std::int64_t set_interval_timer(int which, const itimerspec& value, itimerspec* old) RAMET_EXCLUDES(lock_);
  std::int64_t get_interval_timer(int which, itimerspec& value) RAMET_EXCLUDES(lock_);

  // RLIMIT_CPU has been set: the process gets SIGXCPU each second from its lower value on, and SIGKILL at the upper
  // one. False: the host has no thread that would look at it.
  bool watch_limit() RAMET_EXCLUDES(lock_);

 private:
  using Nanoseconds = std::chrono::nanoseconds;
  struct Timer {
    Clock clock;
    timer_t host{};  // of a clock of the host
    Nanoseconds expiry{}, interval{};  // of processor time. 0: not set
    Notify notify;
    bool posix = true;  // SI_TIMER with its id; else an interval timer's plain signal
    bool armed = false;  // an expiry may be on its way to the program
    int last_overrun = 0;
    const ProcessorClock* of_processor() const { return std::get_if<ProcessorClock>(&clock); }
  };
  struct Expired {
    int tid = 0;
    siginfo_t info{};
  };
  static constexpr std::size_t kMaxTimers = 256;
  std::int64_t create_locked(const Clock&, const Notify&, bool posix) RAMET_REQUIRES(lock_);
  std::int64_t interval_timer_locked(int which) RAMET_REQUIRES(lock_);
  std::int64_t set_and_drain(UniqueLock&, int id, int flags, const itimerspec& value, itimerspec* old, Nanoseconds now)
      RAMET_REQUIRES(lock_);
  std::int64_t set_locked(int id, int flags, const itimerspec& value, itimerspec& old, Nanoseconds now)
      RAMET_REQUIRES(lock_);
  std::int64_t get_locked(int id, itimerspec& value, Nanoseconds now) RAMET_REQUIRES(lock_);
  // Of a timer of processor time; 0 for others. Without the lock.
  Nanoseconds now_of(int id) RAMET_EXCLUDES(lock_);
  Nanoseconds now_of_interval(int which);
  static std::uint64_t advance(Timer&, Nanoseconds now);
  void delete_on_host(const Timer&);
  Expired expired_locked(int id, const Timer&, std::uint64_t overrun) const RAMET_REQUIRES(lock_);
  void tell(const Expired&);
  bool start_thread_locked() RAMET_REQUIRES(lock_);
  void wake_locked() RAMET_REQUIRES(lock_);
  // The serving thread has passed on what has expired so far. Gives up the lock meanwhile.
  void wait_for_expired(UniqueLock&) RAMET_REQUIRES(lock_);
  void serve() RAMET_EXCLUDES(lock_);
  void host_timer_expired(const siginfo_t&) RAMET_EXCLUDES(lock_);
  std::optional<Nanoseconds> look() RAMET_EXCLUDES(lock_);
  std::optional<Nanoseconds> look_at_limit(Nanoseconds used, std::vector<Expired>&);

  Process& process_;
  Mutex lock_;
  std::map<int, Timer> timers_ RAMET_GUARDED_BY(lock_);
  std::array<int, 3> interval_ RAMET_GUARDED_BY(lock_){-1, -1, -1};  // ids of the interval timers, -1 until first set
  int next_id_ RAMET_GUARDED_BY(lock_) = 0;
  bool stopping_ RAMET_GUARDED_BY(lock_) = false;  // the thread is to end
  bool limited_ RAMET_GUARDED_BY(lock_) = false;  // watch_limit()
  std::uint64_t drains_asked_ RAMET_GUARDED_BY(lock_) = 0, drains_done_ RAMET_GUARDED_BY(lock_) = 0;
  std::condition_variable drained_;  // drains_done_ or stopping_ has changed
  // The serving thread's own: the sum of the clocks that look() read last, and how often in a row it had not changed.
  Nanoseconds last_looked_at_{};
  unsigned idle_looks_ = 0;
  pid_t server_ = 0;  // host tid of the thread; 0 before it runs
  std::thread thread_;
};

}  // namespace ramet::vmm
