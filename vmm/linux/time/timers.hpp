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

// A clock of processor time. No clock of the host measures it: the VMM serves several guest processes, and guest code
// may run in host processes of its own.
struct ProcessorClock {
  bool of_thread = false;
  int id = 0;                 // of a guest process, or of a thread of the guest process that asks
  // Errors: EINVAL, there is no such process or thread (any more).
  OrErrno<std::chrono::nanoseconds> now(Process& asking) const;
};

// The shortest time in which a guest can use so much processor time, on all processors at once; but at least a tick of
// 4 ms, and twice that for each doubling.
std::chrono::nanoseconds soonest(std::chrono::nanoseconds left, unsigned doublings = 0);

// Every guest timer is a host POSIX timer on the same clock, so that intervals and absolute times are the host
// kernel's. Host timers signal one thread of the VMM, the serving thread, which sends guest signals for them; it starts
// with the first timer. It reads clocks of processor time itself, as often as timers on them could have expired: like
// Linux's, they are some milliseconds late. When set() or remove() returns, the signals of all earlier expiries have
// been sent, as on Linux. Thread-safe. lock_ is taken under no other lock of the process; Limits::lock is taken under
// it.
class Timers {
 public:
  explicit Timers(Process& process) : process_(process) {}
  ~Timers() { stop(); }
  void stop() RAMET_EXCLUDES(lock_);  // deletes all timers and joins the serving thread; no timer can be made any more
  Timers(const Timers&) = delete;
  Timers& operator=(const Timers&) = delete;

  // The signal for an expiry. tid 0: to the process.
  struct Notify {
    int signal = 0;  // 0: none (SIGEV_NONE)
    int tid = 0;
    std::optional<std::uint64_t> value;  // si_value; without one, the timer's id
  };
  using Clock = std::variant<clockid_t, ProcessorClock>;
  // Returns the timer's id, or -errno (EAGAIN: too many).
  std::int64_t create(const Clock&, const Notify&) RAMET_EXCLUDES(lock_);
  // 0 or -errno (EINVAL: no such timer). `old` may be null. flags: TIMER_ABSTIME, for a time on the guest's clock.
  std::int64_t set(int id, int flags, const itimerspec& value, itimerspec* old) RAMET_EXCLUDES(lock_);
  std::int64_t get(int id, itimerspec& value) RAMET_EXCLUDES(lock_);
  // Overruns of the expiry whose signal the program took last.
  std::int64_t overrun(int id) RAMET_EXCLUDES(lock_);
  // Notes the overruns of a timer's signal that the program takes; called for any signal.
  void taken(const siginfo_t&) RAMET_EXCLUDES(lock_);
  std::int64_t remove(int id) RAMET_EXCLUDES(lock_);
  std::size_t posix_count() RAMET_EXCLUDES(lock_);  // how many timers timer_create(2) made
  void remove_posix() RAMET_EXCLUDES(lock_);  // execve(2): all that timer_create(2) made

  // which: ITIMER_REAL, ITIMER_VIRTUAL or ITIMER_PROF. The last two count alike: processor time of a guest cannot be
  // told apart into its own and the system's.
  std::int64_t set_interval_timer(int which, const itimerspec& value, itimerspec* old) RAMET_EXCLUDES(lock_);
  std::int64_t get_interval_timer(int which, itimerspec& value) RAMET_EXCLUDES(lock_);

  // Called when RLIMIT_CPU was set: the process gets SIGXCPU each second from the soft limit on, and SIGKILL at the
  // hard one. False: the host has no thread for the serving thread.
  bool watch_limit() RAMET_EXCLUDES(lock_);

 private:
  using Nanoseconds = std::chrono::nanoseconds;
  struct Timer {
    Clock clock;
    timer_t host{};  // on a clock of the host
    Nanoseconds expiry{}, interval{};  // on a clock of processor time. 0: not set
    Notify notify;
    bool posix = true;  // SI_TIMER with its id; else an interval timer's plain signal
    bool armed = false;  // an expiry's signal may still have to be sent
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
  // What the timer's clock of processor time shows; 0 for other timers.
  Nanoseconds now_of(int id) RAMET_EXCLUDES(lock_);
  Nanoseconds now_of_interval(int which);
  // Moves the timer to its first expiry after `now`. Returns the overruns: the expiries up to `now`, but for the first.
  static std::uint64_t advance(Timer&, Nanoseconds now);
  void delete_on_host(const Timer&);
  Expired expired_locked(int id, const Timer&, std::uint64_t overrun) const RAMET_REQUIRES(lock_);
  void tell(const Expired&);
  bool start_thread_locked() RAMET_REQUIRES(lock_);
  void wake_locked() RAMET_REQUIRES(lock_);
  // Waits until the serving thread has sent signals for all expiries so far. Releases the lock meanwhile.
  void wait_for_expired(UniqueLock&) RAMET_REQUIRES(lock_);
  void serve() RAMET_EXCLUDES(lock_);
  void host_timer_expired(const siginfo_t&) RAMET_EXCLUDES(lock_);
  // Sends signals for what has expired on clocks of processor time, RLIMIT_CPU included. Returns for how long nothing
  // more can expire; none: nothing is armed.
  std::optional<Nanoseconds> look() RAMET_EXCLUDES(lock_);
  // RLIMIT_CPU's part: adds its signals to the vector, and returns what is left to the next.
  std::optional<Nanoseconds> look_at_limit(Nanoseconds used, std::vector<Expired>&);

  Process& process_;
  Mutex lock_;
  std::map<int, Timer> timers_ RAMET_GUARDED_BY(lock_);
  std::array<int, 3> interval_ RAMET_GUARDED_BY(lock_){-1, -1, -1};  // ids of the interval timers, -1 until first set
  int next_id_ RAMET_GUARDED_BY(lock_) = 0;
  bool stopping_ RAMET_GUARDED_BY(lock_) = false;  // the thread is to end
  bool limited_ RAMET_GUARDED_BY(lock_) = false;  // watch_limit()
  // Calls of wait_for_expired(), and how many of them the serving thread has served.
  std::uint64_t drains_asked_ RAMET_GUARDED_BY(lock_) = 0, drains_done_ RAMET_GUARDED_BY(lock_) = 0;
  std::condition_variable drained_;  // drains_done_ or stopping_ has changed
  // The serving thread's own: the sum of the clocks that look() read last, and how often in a row it had not changed.
  Nanoseconds last_looked_at_{};
  unsigned idle_looks_ = 0;
  pid_t server_ = 0;  // host tid of the thread; 0 before it runs
  std::thread thread_;
};

}  // namespace ramet::vmm
