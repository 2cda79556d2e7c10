#include "vmm/linux/time/timers.hpp"

#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <future>
#include <new>
#include <system_error>
#include <utility>

#include "vmm/kick_signal.hpp"
#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/process.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/time/guest_time.hpp"
#include "vmm/signals_blocked.hpp"

namespace ramet::vmm {
namespace {

// What host timers raise. Only the serving thread takes it, by sigwaitinfo; nobody else gets it,
// because SIGEV_THREAD_ID names that thread.
int timer_signal() { return SIGRTMAX - 1; }

sigset_t of_timers() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, timer_signal());
  return set;
}

// What the serving thread waits for: that, and the kick, which has it look at its state. The kick is a standard signal:
// it needs no room in the queue of RLIMIT_SIGPENDING, and comes before expiries that wait there.
sigset_t served_signals() {
  sigset_t set = of_timers();
  sigaddset(&set, kick_signal());
  return set;
}

constexpr std::chrono::nanoseconds kNever = std::chrono::nanoseconds::max();

}  // namespace

std::chrono::nanoseconds soonest(std::chrono::nanoseconds left, unsigned doublings) {
  static const unsigned processors = std::max(1u, std::thread::hardware_concurrency());
  constexpr std::chrono::milliseconds kLeast{4};  // what Linux's tick is
  return std::max<std::chrono::nanoseconds>(left / processors, kLeast * (1u << doublings));
}

OrErrno<std::chrono::nanoseconds> ProcessorClock::now(Process& asking) const {
  if (!of_thread) {
    if (id == asking.pid) return asking.processor_time();
    auto other = asking.family.find(id);
    if (!other) return err(EINVAL);
    return other->processor_time();
  }
  LockGuard guard(asking.threads_lock);
  Thread* const thread = asking.find_thread(id);
  if (!thread) return err(EINVAL);
  return thread->processor_time();
}

void Timers::stop() {
  {
    LockGuard guard(lock_);
    for (auto& [id, timer] : timers_) delete_on_host(timer);
    timers_.clear();
    interval_.fill(-1);
    stopping_ = true;
  }
  drained_.notify_all();
  // Not under the lock: the serving thread takes it before it sees stopping_.
  if (!thread_.joinable()) return;
  pthread_kill(thread_.native_handle(), kick_signal());
  thread_.join();
}

void Timers::delete_on_host(const Timer& timer) {
  if (!timer.of_processor()) timer_delete(timer.host);
}

void Timers::wake_locked() {
  if (server_ != 0) pthread_kill(thread_.native_handle(), kick_signal());
}

bool Timers::start_thread_locked() {
  if (stopping_) return false;
  if (server_ != 0) return true;
  SignalsBlocked blocked;
  try {
    std::promise<pid_t> ready;
    thread_ = std::thread([this, &ready] {
      const sigset_t set = served_signals();
      pthread_sigmask(SIG_BLOCK, &set, nullptr);  // before anybody knows this thread: it takes them by sigwaitinfo only
      ready.set_value(static_cast<pid_t>(syscall(SYS_gettid)));
      serve();
    });
    server_ = ready.get_future().get();
  } catch (const std::exception&) {
    // No host thread to be had, or no memory for one; the caller says EAGAIN.
  }
  return server_ != 0;
}

void Timers::serve() {
  const sigset_t set = served_signals();
  for (;;) {
    const auto wait = look();
    siginfo_t host{};
    timespec slice{};
    if (wait) slice = to_timespec(*wait);
    const int sig = sigtimedwait(&set, &host, wait ? &slice : nullptr);
    std::uint64_t asked;
    {
      LockGuard guard(lock_);
      if (stopping_) return;
      asked = drains_asked_;
      if (asked == drains_done_) asked = 0;
    }
    if (sig == timer_signal()) host_timer_expired(host);  // else a kick, or nothing: time to look
    if (asked == 0) continue;
    // The host's queue has each timer once at most, the oldest first.
    const sigset_t timers = of_timers();
    constexpr timespec kAtOnce{};
    for (std::size_t i = 0; i < kMaxTimers && sigtimedwait(&timers, &host, &kAtOnce) == timer_signal(); ++i)
      host_timer_expired(host);
    {
      LockGuard guard(lock_);
      drains_done_ = asked;
    }
    drained_.notify_all();
  }
}

void Timers::wait_for_expired(UniqueLock& guard) {
  const std::uint64_t asked = ++drains_asked_;
  wake_locked();
  drained_.wait(guard.standard(), [&]() RAMET_REQUIRES(lock_) { return stopping_ || drains_done_ >= asked; });
}

void Timers::host_timer_expired(const siginfo_t& host) {
  Expired expired;
  {
    LockGuard guard(lock_);
    const int id = host.si_value.sival_int;
    auto found = timers_.find(id);
    if (found == timers_.end()) return;  // deleted while its expiry was on the way
    expired = expired_locked(id, found->second, static_cast<std::uint64_t>(host.si_overrun));
  }
  tell(expired);
}

Timers::Expired Timers::expired_locked(int id, const Timer& timer, std::uint64_t overrun) const {
  Expired e{.tid = timer.notify.tid};
  e.info.si_signo = timer.notify.signal;
  e.info.si_code = timer.posix ? SI_TIMER : SI_KERNEL;
  if (timer.posix) {
    e.info.si_timerid = id;
    e.info.si_overrun = static_cast<int>(std::min<std::uint64_t>(overrun, INT_MAX));  // Linux's DELAYTIMER_MAX
    e.info.si_value.sival_ptr = reinterpret_cast<void*>(timer.notify.value.value_or(id));
  }
  return e;
}

// The expiry is lost if the guest's queue is full, the thread has gone or the host has no memory.
void Timers::tell(const Expired& e) {
  try {
    if (e.tid != 0) (void)send_to_thread(process_, e.tid, e.info);
    else (void)send_to_process(process_, e.info);
  } catch (const std::bad_alloc&) {}
}

// --- processor time ---

std::uint64_t Timers::advance(Timer& timer, Nanoseconds now) {
  if (timer.interval == Nanoseconds{}) {
    timer.expiry = {};
    return 0;
  }
  const auto passed = (now - timer.expiry) / timer.interval;
  const Nanoseconds last = timer.expiry + passed * timer.interval;
  timer.expiry = last > kNever - timer.interval ? kNever : last + timer.interval;
  return static_cast<std::uint64_t>(passed);
}

std::optional<std::chrono::nanoseconds> Timers::look() {
  std::vector<std::pair<int, ProcessorClock>> armed;
  bool limited;
  {
    LockGuard guard(lock_);
    for (const auto& [id, timer] : timers_)
      if (const auto* clock = timer.of_processor(); clock && timer.expiry != Nanoseconds{} && timer.notify.signal)
        armed.emplace_back(id, *clock);
    limited = limited_;
  }
  if (armed.empty() && !limited) return std::nullopt;
  std::vector<Expired> expired;
  std::optional<Nanoseconds> left;  // until the first expires
  const auto sooner = [&left](std::optional<Nanoseconds> l) {
    if (l && (!left || *l < *left)) left = l;
  };
  Nanoseconds all{};
  if (limited) {
    const Nanoseconds used = process_.processor_time();
    all += used;
    sooner(look_at_limit(used, expired));
  }
  for (const auto& [id, clock] : armed) {
    const auto now = clock.now(process_);
    LockGuard guard(lock_);
    auto found = timers_.find(id);
    if (found == timers_.end() || found->second.expiry == Nanoseconds{}) continue;  // changed meanwhile
    Timer& timer = found->second;
    if (!now) {
      timer.expiry = {};  // the process or thread has ended
      continue;
    }
    all += *now;
    if (*now >= timer.expiry) expired.push_back(expired_locked(id, timer, advance(timer, *now)));
    if (timer.expiry != Nanoseconds{}) sooner(timer.expiry - *now);
  }
  for (const Expired& e : expired) tell(e);
  if (!left) return std::nullopt;
  // While the clocks stand still they are read less and less often.
  constexpr unsigned kMostDoublings = 4;
  idle_looks_ = all == last_looked_at_ ? std::min(idle_looks_ + 1, kMostDoublings) : 0;
  last_looked_at_ = all;
  return soonest(*left, idle_looks_);
}

std::optional<std::chrono::nanoseconds> Timers::look_at_limit(Nanoseconds used, std::vector<Expired>& expired) {
  Expired e;
  e.info.si_code = SI_KERNEL;
  LockGuard guard(process_.limits.lock);
  rlimit64& limit = process_.limits.value[RLIMIT_CPU];
  constexpr auto kMost = static_cast<rlim64_t>(kNever / std::chrono::seconds(1));
  const auto time = [](rlim64_t seconds) {
    return seconds > kMost ? kNever : Nanoseconds(std::chrono::seconds(seconds));
  };
  if (used >= time(limit.rlim_max)) {
    e.info.si_signo = SIGKILL;
    expired.push_back(e);
    return std::nullopt;
  }
  if (used >= time(limit.rlim_cur)) {
    e.info.si_signo = SIGXCPU;
    expired.push_back(e);
    limit.rlim_cur = static_cast<rlim64_t>(used / std::chrono::seconds(1)) + 1;  // as Linux does
  }
  const Nanoseconds next = std::min(time(limit.rlim_cur), time(limit.rlim_max));
  if (next == kNever) return std::nullopt;
  return next - used;
}

bool Timers::watch_limit() {
  LockGuard guard(lock_);
  {
    LockGuard limits(process_.limits.lock);
    const rlimit64& limit = process_.limits.value[RLIMIT_CPU];
    limited_ = limit.rlim_cur != RLIM64_INFINITY || limit.rlim_max != RLIM64_INFINITY;
  }
  if (!limited_) return true;
  if (!start_thread_locked()) return false;
  wake_locked();
  return true;
}

std::chrono::nanoseconds Timers::now_of(int id) {
  std::optional<ProcessorClock> clock;
  {
    LockGuard guard(lock_);
    if (auto found = timers_.find(id); found != timers_.end())
      if (const auto* of = found->second.of_processor()) clock = *of;
  }
  return clock ? clock->now(process_).value_or(Nanoseconds{}) : Nanoseconds{};
}

std::chrono::nanoseconds Timers::now_of_interval(int which) {
  return which == ITIMER_REAL ? Nanoseconds{} : process_.processor_time();
}

std::int64_t Timers::create_locked(const Clock& clock, const Notify& notify, bool posix) {
  if (timers_.size() >= kMaxTimers || !start_thread_locked()) return -EAGAIN;
  int id;
  do {
    id = next_id_;
    next_id_ = id == INT_MAX ? 0 : id + 1;
  } while (timers_.contains(id));
  Timer timer{.clock = clock, .notify = notify, .posix = posix};
  const auto place = timers_.emplace(id, timer).first;  // before timer_create(2), so that the host's is not lost
  if (timer.of_processor()) return id;
  sigevent event{};
  event.sigev_notify = notify.signal ? SIGEV_THREAD_ID : SIGEV_NONE;
  event.sigev_signo = timer_signal();
  event.sigev_value.sival_int = id;
  event._sigev_un._tid = server_;
  if (timer_create(std::get<clockid_t>(clock), &event, &place->second.host) == 0) return id;
  const int error = errno;
  timers_.erase(place);
  return -error;
}

std::int64_t Timers::create(const Clock& clock, const Notify& notify) {
  LockGuard guard(lock_);
  return create_locked(clock, notify, true);
}

std::int64_t Timers::set(int id, int flags, const itimerspec& value, itimerspec* old) {
  const Nanoseconds now = now_of(id);
  UniqueLock guard(lock_);
  auto found = timers_.find(id);
  return found == timers_.end() || !found->second.posix ? -EINVAL : set_and_drain(guard, id, flags, value, old, now);
}

std::int64_t Timers::set_and_drain(UniqueLock& guard, int id, int flags, const itimerspec& value, itimerspec* old,
                                   Nanoseconds now) {
  itimerspec before{};
  if (const std::int64_t r = set_locked(id, flags, value, before, now); r != 0) return r;
  if (old) *old = before;
  Timer& timer = timers_.at(id);
  const bool may_have_expired = !is_zero(before.it_interval) || is_zero(before.it_value) || timer.of_processor();
  const bool wait = std::exchange(timer.armed, !is_zero(value.it_value)) && may_have_expired;
  if (wait && timer.notify.signal) wait_for_expired(guard);
  return 0;
}

std::int64_t Timers::set_locked(int id, int flags, const itimerspec& value, itimerspec& old, Nanoseconds now) {
  Timer& timer = timers_.at(id);
  if (!timer.of_processor()) {
    itimerspec on_host = value;
    if (flags & TIMER_ABSTIME)
      on_host.it_value = process_.family.clocks.host_timer(std::get<clockid_t>(timer.clock), value.it_value);
    return timer_settime(timer.host, flags, &on_host, &old) == 0 ? 0 : -errno;
  }
  if (!valid_time(value.it_value) || !valid_time(value.it_interval)) return -EINVAL;
  get_locked(id, old, now);
  const Nanoseconds first = to_nanoseconds(value.it_value);
  timer.interval = to_nanoseconds(value.it_interval);
  timer.expiry = first == Nanoseconds{} || (flags & TIMER_ABSTIME) ? first
                 : first > kNever - now                            ? kNever
                                                                   : now + first;
  wake_locked();
  return 0;
}

std::int64_t Timers::get(int id, itimerspec& value) {
  const Nanoseconds now = now_of(id);
  LockGuard guard(lock_);
  auto found = timers_.find(id);
  return found == timers_.end() || !found->second.posix ? -EINVAL : get_locked(id, value, now);
}

std::int64_t Timers::get_locked(int id, itimerspec& value, Nanoseconds now) {
  Timer& timer = timers_.at(id);
  if (!timer.of_processor()) return timer_gettime(timer.host, &value) == 0 ? 0 : -errno;
  // look() passes over timers without a signal. Of others that have expired, the serving thread has yet to tell.
  if (!timer.notify.signal && timer.expiry != Nanoseconds{} && now >= timer.expiry) (void)advance(timer, now);
  const Nanoseconds left = timer.expiry == Nanoseconds{} ? Nanoseconds{} : std::max(timer.expiry - now, Nanoseconds{1});
  value = {to_timespec(timer.interval), to_timespec(left)};
  return 0;
}

void Timers::taken(const siginfo_t& info) {
  if (info.si_code != SI_TIMER) return;
  LockGuard guard(lock_);
  auto found = timers_.find(info.si_timerid);  // programs make such signals, too
  if (found != timers_.end()) found->second.last_overrun = info.si_overrun;
}

std::int64_t Timers::overrun(int id) {
  LockGuard guard(lock_);
  auto found = timers_.find(id);
  return found == timers_.end() || !found->second.posix ? -EINVAL : found->second.last_overrun;
}

std::int64_t Timers::remove(int id) {
  if (const std::int64_t r = set(id, 0, {}, nullptr); r != 0) return r;
  LockGuard guard(lock_);
  auto found = timers_.find(id);
  if (found == timers_.end()) return -EINVAL;
  delete_on_host(found->second);
  timers_.erase(found);
  return 0;
}

std::size_t Timers::posix_count() {
  LockGuard guard(lock_);
  return static_cast<std::size_t>(std::ranges::count_if(timers_, [](const auto& entry) { return entry.second.posix; }));
}

void Timers::remove_posix() {
  LockGuard guard(lock_);
  std::erase_if(timers_, [this](auto& entry) {
    if (!entry.second.posix) return false;
    delete_on_host(entry.second);
    return true;
  });
}

std::int64_t Timers::interval_timer_locked(int which) {
  const Clock clock = which == ITIMER_REAL ? Clock(CLOCK_MONOTONIC)
                                           : Clock(ProcessorClock{.of_thread = false, .id = process_.pid});
  static constexpr int kRaised[] = {SIGALRM, SIGVTALRM, SIGPROF};
  if (interval_[which] < 0) {
    std::int64_t id = create_locked(clock, {.signal = kRaised[which], .tid = 0, .value = {}}, false);
    if (id < 0) return id;
    interval_[which] = static_cast<int>(id);
  }
  return interval_[which];
}

std::int64_t Timers::set_interval_timer(int which, const itimerspec& value, itimerspec* old) {
  const Nanoseconds now = now_of_interval(which);
  UniqueLock guard(lock_);
  if (interval_[which] < 0 && is_zero(value.it_value)) {
    if (old) *old = {};
    return 0;  // alarm(0) before any alarm needs no timer
  }
  std::int64_t id = interval_timer_locked(which);
  return id < 0 ? id : set_and_drain(guard, static_cast<int>(id), 0, value, old, now);
}

std::int64_t Timers::get_interval_timer(int which, itimerspec& value) {
  const Nanoseconds now = now_of_interval(which);
  LockGuard guard(lock_);
  value = {};
  return interval_[which] < 0 ? 0 : get_locked(interval_[which], value, now);
}

}  // namespace ramet::vmm
