// System calls about time: clocks, sleeping, interval and POSIX timers.
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/times.h>
#include <sys/timex.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <ctime>

#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/time/guest_time.hpp"
#include "vmm/linux/time/timers.hpp"
#include "vmm/linux/user_memory.hpp"

namespace ramet::vmm {
namespace {

// What a guest clock id means.
OrErrno<Timers::Clock> clock_of(Thread& thread, clockid_t id) {
  const ProcessorClock of_process{.of_thread = false, .id = thread.process.pid},
      of_thread{.of_thread = true, .id = thread.tid};
  if (id == CLOCK_PROCESS_CPUTIME_ID) return of_process;
  if (id == CLOCK_THREAD_CPUTIME_ID) return of_thread;
  if (id >= 0) {
    constexpr clockid_t kLast = CLOCK_TAI;
    if (id > kLast || id == 10) return err(EINVAL);  // 10 is CLOCK_SGI_CYCLE, gone from Linux
    return id;
  }
  // Negative ids hold ~pid << 3, bit 2 set for a thread, and the kind of clock below (2: scheduler).
  const int pid = ~(id >> 3);
  if ((id & 3) > 2) return err(EINVAL);
  ProcessorClock clock = id & 4 ? of_thread : of_process;
  if (pid != 0) clock.id = pid;
  if (auto now = clock.now(thread.process); !now) return err(now.error());
  return clock;
}

// Clocks whose timers wake a suspended machine: EPERM, as on Linux without CAP_WAKE_ALARM, which no guest has.
bool wakes_the_host(clockid_t clock) { return clock == CLOCK_REALTIME_ALARM || clock == CLOCK_BOOTTIME_ALARM; }

std::int64_t sys_clock_gettime(Thread& thread, const Args& a) {
  auto clock = clock_of(thread, a.i32(0));
  if (!clock) return -clock.error();
  if (const auto* processor = std::get_if<ProcessorClock>(&*clock)) {
    auto used = processor->now(thread.process);
    return used ? put_user(thread.memory(), a[1], to_timespec(*used)) : -used.error();
  }
  const clockid_t host = std::get<clockid_t>(*clock);
  timespec now;
  if (clock_gettime(host, &now) != 0) return -errno;
  // A call from the host's own vDSO gets the host's time: the program's vDSO, which called that one, adds the offset.
  if (!thread.image().in_host_vdso(thread.pc())) now = thread.process.family.clocks.guest(host, now);
  return put_user(thread.memory(), a[1], now);
}

std::int64_t sys_clock_getres(Thread& thread, const Args& a) {
  auto clock = clock_of(thread, a.i32(0));
  if (!clock) return -clock.error();
  const clockid_t* host = std::get_if<clockid_t>(&*clock);
  timespec resolution;
  if (clock_getres(host ? *host : CLOCK_PROCESS_CPUTIME_ID, &resolution) != 0) return -errno;
  return a[1] ? put_user(thread.memory(), a[1], resolution) : 0;
}

std::int64_t sys_clock_settime(Thread&, const Args&) { return -EPERM; }

std::int64_t sys_gettimeofday(Thread& thread, const Args& a) {
  timeval now;
  if (gettimeofday(&now, nullptr) != 0) return -errno;
  if (a[0] && put_user(thread.memory(), a[0], now) != 0) return -EFAULT;
  struct timezone utc{};
  if (a[1] && put_user(thread.memory(), a[1], utc) != 0) return -EFAULT;
  return 0;
}

std::int64_t sys_time(Thread& thread, const Args& a) {
  const std::int64_t now = ::time(nullptr);
  if (a[0] && put_user(thread.memory(), a[0], now) != 0) return -EFAULT;
  return now;
}

std::int64_t sys_times(Thread& thread, const Args& a) {
  const long hz = sysconf(_SC_CLK_TCK);
  auto ticks = [hz](const timeval& t) { return static_cast<clock_t>(t.tv_sec * hz + t.tv_usec * hz / 1'000'000); };
  const rusage own = thread.process.usage(), children = thread.process.family.children_usage(thread.process.pid);
  const tms used{ticks(own.ru_utime), ticks(own.ru_stime), ticks(children.ru_utime), ticks(children.ru_stime)};
  if (a[0] && put_user(thread.memory(), a[0], used) != 0) return -EFAULT;
  tms host;
  const timespec moved = thread.process.family.clocks.offset(CLOCK_MONOTONIC);
  return ::times(&host) + moved.tv_sec * hz + moved.tv_nsec * hz / kNanosPerSecond;
}

// KTIME_MAX, the latest expiry of a timer on Linux.
constexpr timespec kLastWakeUp{INT64_MAX / kNanosPerSecond, INT64_MAX % kNanosPerSecond};

// Sleeps until `deadline` on `clock`. remaining: where the time left goes when a signal ends the sleep, 0
// for absolute sleeps, which Linux starts again with the same arguments.
std::int64_t sleep_until(Thread& thread, clockid_t clock, timespec deadline, mm::Gva remaining, bool absolute) {
  std::int64_t r = thread.blocking(SYS_clock_nanosleep, static_cast<std::uint64_t>(clock), TIMER_ABSTIME,
                                   reinterpret_cast<std::uint64_t>(&deadline), 0);
  if (r != -EINTR) return r;
  if (absolute) return kRestartNoHand;
  const timespec rest = time_left(clock, deadline);
  if (is_zero(rest)) return 0;
  if (remaining && put_user(thread.memory(), remaining, rest) != 0) return -EFAULT;
  thread.restart = [=](Thread& same) { return sleep_until(same, clock, deadline, remaining, false); };
  return kRestartBlock;
}

std::int64_t sleep(Thread& thread, clockid_t clock, bool absolute, mm::Gva request, mm::Gva remaining) {
  auto time = read_time(thread.memory(), request);
  if (!time) return -time.error();
  if (wakes_the_host(clock)) return -EPERM;
  if (absolute) return sleep_until(thread, clock, thread.process.family.clocks.host(clock, *time), 0, true);
  // A relative sleep does not follow changes of the wall clock.
  if (clock == CLOCK_REALTIME) clock = CLOCK_MONOTONIC;
  timespec deadline = deadline_after(clock, *time);
  // As on Linux: no sleep lasts longer, and what an interrupted one has left is counted from there.
  if (deadline.tv_sec >= kLastWakeUp.tv_sec) deadline = kLastWakeUp;
  return sleep_until(thread, clock, deadline, remaining, false);
}

std::int64_t sys_nanosleep(Thread& thread, const Args& a) { return sleep(thread, CLOCK_MONOTONIC, false, a[0], a[1]); }

// Sleeps until the clock, which is not the calling thread's own, reaches `deadline`: reads it as often as that could
// have happened.
std::int64_t sleep_on_processor(Thread& thread, const ProcessorClock& clock, std::chrono::nanoseconds deadline,
                                mm::Gva remaining, bool absolute) {
  for (;;) {
    const auto now = clock.now(thread.process);
    if (!now) return -now.error();
    if (*now >= deadline) return 0;
    const timespec slice = to_timespec(soonest(deadline - *now));
    std::int64_t r = thread.blocking(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, reinterpret_cast<std::uint64_t>(&slice),
                                     0);
    if (r != -EINTR) continue;
    if (absolute) return kRestartNoHand;
    if (remaining && put_user(thread.memory(), remaining, to_timespec(deadline - *now)) != 0) return -EFAULT;
    thread.restart = [=](Thread& same) { return sleep_on_processor(same, clock, deadline, remaining, false); };
    return kRestartBlock;
  }
}

std::int64_t sys_clock_nanosleep(Thread& thread, const Args& a) {
  auto clock = clock_of(thread, a.i32(0));
  if (!clock) return -EINVAL;
  const bool absolute = a.i32(1) & TIMER_ABSTIME;
  if (const auto* processor = std::get_if<ProcessorClock>(&*clock)) {
    if (processor->of_thread && processor->id == thread.tid) return -EINVAL;
    auto time = read_time(thread.memory(), a[2]);
    if (!time) return -time.error();
    auto now = processor->now(thread.process);
    if (!now) return -now.error();
    const auto wait = to_nanoseconds(*time), most = std::chrono::nanoseconds::max() - *now;
    return sleep_on_processor(thread, *processor, absolute ? wait : *now + std::min(wait, most), a[3], absolute);
  }
  const clockid_t host = std::get<clockid_t>(*clock);
  if (host == CLOCK_MONOTONIC_RAW || host == CLOCK_REALTIME_COARSE || host == CLOCK_MONOTONIC_COARSE)
    return -EOPNOTSUPP;
  return sleep(thread, host, absolute, a[2], a[3]);
}

// --- interval timers ---

std::int64_t sys_setitimer(Thread& thread, const Args& a) {
  if (a.u32(0) > ITIMER_PROF) return -EINVAL;
  itimerspec value{}, old{};
  if (a[1]) {
    auto user = read_user<itimerval>(thread.memory(), a[1]);
    if (!user) return -user.error();
    auto interval = to_timespec(user->it_interval), first = to_timespec(user->it_value);
    if (!interval || !first || !valid_time(*interval) || !valid_time(*first)) return -EINVAL;
    value = {*interval, *first};
  }
  if (std::int64_t r = thread.process.timers->set_interval_timer(a.i32(0), value, &old); r != 0) return r;
  if (!a[2]) return 0;
  return put_user(thread.memory(), a[2], itimerval{to_timeval(old.it_interval), to_timeval(old.it_value)});
}

std::int64_t sys_getitimer(Thread& thread, const Args& a) {
  if (a.u32(0) > ITIMER_PROF) return -EINVAL;
  itimerspec value;
  if (std::int64_t r = thread.process.timers->get_interval_timer(a.i32(0), value); r != 0) return r;
  return put_user(thread.memory(), a[1], itimerval{to_timeval(value.it_interval), to_timeval(value.it_value)});
}

std::int64_t sys_alarm(Thread& thread, const Args& a) {
  itimerspec value{{}, {static_cast<time_t>(a.u32(0)), 0}}, old{};
  if (std::int64_t r = thread.process.timers->set_interval_timer(ITIMER_REAL, value, &old); r != 0) return r;
  // Seconds left of the old alarm, rounded, but never 0 for one that was still running.
  std::int64_t left = old.it_value.tv_sec + (old.it_value.tv_nsec >= kNanosPerSecond / 2 ? 1 : 0);
  return left == 0 && old.it_value.tv_nsec != 0 ? 1 : left;
}

// --- POSIX timers ---

std::int64_t sys_timer_create(Thread& thread, const Args& a) {
  auto clock = clock_of(thread, a.i32(0));
  if (!clock) return -clock.error();
  Timers::Notify notify{.signal = SIGALRM, .tid = 0, .value = {}};
  if (a[1]) {
    auto event = read_user<sigevent>(thread.memory(), a[1]);
    if (!event) return -event.error();
    notify.value = reinterpret_cast<std::uint64_t>(event->sigev_value.sival_ptr);
    notify.signal = event->sigev_signo;
    switch (event->sigev_notify) {
      case SIGEV_NONE: notify.signal = 0; break;
      case SIGEV_SIGNAL: break;
      case SIGEV_THREAD_ID: {
        notify.tid = event->_sigev_un._tid;
        LockGuard guard(thread.process.threads_lock);
        if (!thread.process.find_thread(notify.tid)) return -EINVAL;
        break;
      }
      default: return -EINVAL;
    }
    if (event->sigev_notify != SIGEV_NONE && (notify.signal < 1 || notify.signal > kSignals)) return -EINVAL;
  }
  if (const auto* host = std::get_if<clockid_t>(&*clock); host && wakes_the_host(*host)) return -EPERM;
  std::int64_t id = thread.process.timers->create(*clock, notify);
  if (id < 0) return id;
  if (put_user(thread.memory(), a[2], static_cast<int>(id)) != 0) {
    thread.process.timers->remove(static_cast<int>(id));
    return -EFAULT;
  }
  return 0;
}

std::int64_t sys_timer_settime(Thread& thread, const Args& a) {
  auto value = read_user<itimerspec>(thread.memory(), a[2]);
  if (!value) return a[2] ? -value.error() : -EINVAL;
  if (!valid_time(value->it_value) || !valid_time(value->it_interval)) return -EINVAL;
  itimerspec old{};
  if (std::int64_t r = thread.process.timers->set(a.i32(0), a.i32(1) & TIMER_ABSTIME, *value, &old); r != 0) return r;
  return a[3] ? put_user(thread.memory(), a[3], old) : 0;
}

std::int64_t sys_timer_gettime(Thread& thread, const Args& a) {
  itimerspec value;
  if (std::int64_t r = thread.process.timers->get(a.i32(0), value); r != 0) return r;
  return put_user(thread.memory(), a[1], value);
}

std::int64_t sys_timer_getoverrun(Thread& thread, const Args& a) { return thread.process.timers->overrun(a.i32(0)); }
std::int64_t sys_timer_delete(Thread& thread, const Args& a) { return thread.process.timers->remove(a.i32(0)); }

}  // namespace

std::span<const Definition> time_calls() {
  static constexpr Definition kCalls[] = {
      {Call::clock_gettime, sys_clock_gettime},
      {Call::clock_getres, sys_clock_getres},
      {Call::clock_settime, sys_clock_settime},
      {Call::settimeofday, sys_clock_settime},
      {Call::clock_nanosleep, sys_clock_nanosleep},
      {Call::nanosleep, sys_nanosleep},
      {Call::gettimeofday, sys_gettimeofday},
      {Call::time, sys_time},
      {Call::times, sys_times},
      {Call::getitimer, sys_getitimer},
      {Call::setitimer, sys_setitimer},
      {Call::alarm, sys_alarm},
      {Call::timer_create, sys_timer_create},
      {Call::timer_settime, sys_timer_settime},
      {Call::timer_gettime, sys_timer_gettime},
      {Call::timer_getoverrun, sys_timer_getoverrun},
      {Call::timer_delete, sys_timer_delete},
  };
  return kCalls;
}

}  // namespace ramet::vmm
