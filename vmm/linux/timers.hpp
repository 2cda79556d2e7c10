// Interval timers and POSIX timers of a guest program (alarm, setitimer, timer_create).
#pragma once

#include <signal.h>
#include <time.h>

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <thread>

namespace ramet::vmm {

class Process;

// Every guest timer is a host POSIX timer on the same clock, so that intervals, absolute times and CPU-time
// clocks are the host kernel's. Host timers signal one thread of the VMM, which passes them on as guest
// signals; it is started with the first timer. Thread-safe; lock order: Timers' lock > ProcessSignals::lock.
class Timers {
 public:
  explicit Timers(Process& process) : process_(process) {}
  ~Timers();  // deletes every timer and joins the thread
  Timers(const Timers&) = delete;
  Timers& operator=(const Timers&) = delete;

  // How an expiry is told. tid 0: the process.
  struct Notify {
    int signal = 0;           // 0: not at all (SIGEV_NONE)
    int tid = 0;
    std::optional<std::uint64_t> value;  // si_value; without one, the timer's id
  };
  // Bound to the calling thread for CLOCK_THREAD_CPUTIME_ID. Returns the timer's id, or -errno (EAGAIN: too many).
  std::int64_t create(clockid_t clock, const Notify&);
  // 0 or -errno (EINVAL: no such timer). `old` may be null. An absolute time is on the guest's clock.
  std::int64_t set(int id, int flags, const itimerspec& value, itimerspec* old);
  std::int64_t get(int id, itimerspec& value);
  // Of the expiry that the program was told of last.
  std::int64_t overrun(int id);
  // The program takes this signal, a timer's or any other. Without the lock of ProcessSignals.
  void taken(const siginfo_t&);
  std::int64_t remove(int id);
  std::size_t posix_count(); // how many there are of those
  void remove_posix();        // execve(2): all that timer_create made

  // ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF; which is one of them.
  std::int64_t set_interval_timer(int which, const itimerspec& value, itimerspec* old);
  std::int64_t get_interval_timer(int which, itimerspec& value);

 private:
  struct Timer {
    timer_t host{};
    clockid_t clock{};
    Notify notify;
    bool posix = true;        // SI_TIMER with its id; else an interval timer's plain signal
    int last_overrun = 0;
  };
  static constexpr std::size_t kMaxTimers = 256;
  std::int64_t create_locked(clockid_t clock, const Notify&, bool posix);
  std::int64_t interval_timer_locked(int which);
  bool start_thread_locked();
  void serve();

  Process& process_;
  std::mutex lock_;           // guards all below
  std::map<int, Timer> timers_;
  std::array<int, 3> interval_{-1, -1, -1};  // ids of the interval timers, -1 until first set
  int next_id_ = 0;
  bool stopping_ = false;     // the thread is to end
  pid_t server_ = 0;          // host tid of the thread; 0 before it runs
  std::thread thread_;
};

}  // namespace ramet::vmm
