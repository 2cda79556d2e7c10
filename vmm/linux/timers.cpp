#include "vmm/linux/timers.hpp"

#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <future>
#include <new>
#include <system_error>

#include "vmm/kick_signal.hpp"
#include "vmm/linux/family.hpp"
#include "vmm/linux/process.hpp"
#include "vmm/signals_blocked.hpp"

namespace ramet::vmm {
namespace {

// What host timers raise. Only the serving thread takes it, by sigwaitinfo; nobody else gets it,
// because SIGEV_THREAD_ID names that thread.
int timer_signal() { return SIGRTMAX - 1; }

// What the serving thread waits for: that, and the kick, which says that it is to end. The kick is a standard signal, so
// it needs no room in the queue of RLIMIT_SIGPENDING, and it comes before expiries that wait there.
sigset_t served_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, timer_signal());
  sigaddset(&set, kick_signal());
  return set;
}

}  // namespace

Timers::~Timers() {
  {
    std::lock_guard guard(lock_);
    for (auto& [id, timer] : timers_) timer_delete(timer.host);
    timers_.clear();
    stopping_ = true;
  }
  // Without the lock, which the thread takes before it comes back for the kick.
  if (!thread_.joinable()) return;
  pthread_kill(thread_.native_handle(), kick_signal());
  thread_.join();
}

bool Timers::start_thread_locked() {
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
    siginfo_t host{};
    const int sig = sigwaitinfo(&set, &host);
    if (sig < 0) continue;
    siginfo_t info{};
    int tid = 0;
    {
      std::lock_guard guard(lock_);
      if (stopping_) return;
      if (sig != timer_signal()) continue;  // somebody else's kick
      const int id = host.si_value.sival_int;
      auto found = timers_.find(id);
      if (found == timers_.end()) continue;  // deleted while its expiry was on the way
      Timer& timer = found->second;
      tid = timer.notify.tid;
      info.si_signo = timer.notify.signal;
      info.si_code = timer.posix ? SI_TIMER : SI_KERNEL;
      if (timer.posix) {
        info.si_timerid = id;
        info.si_overrun = host.si_overrun;
        info.si_value.sival_ptr = reinterpret_cast<void*>(timer.notify.value.value_or(id));
      }
    }
    // A full queue, a thread that has gone or a host without memory loses the expiry, as Linux counts it as an overrun.
    try {
      if (tid != 0) (void)send_to_thread(process_, tid, info);
      else (void)send_to_process(process_, info);
    } catch (const std::bad_alloc&) {
    }
  }
}

std::int64_t Timers::create_locked(clockid_t clock, const Notify& notify, bool posix) {
  if (timers_.size() >= kMaxTimers || !start_thread_locked()) return -EAGAIN;
  const int id = next_id_++;
  sigevent event{};
  event.sigev_notify = notify.signal ? SIGEV_THREAD_ID : SIGEV_NONE;
  event.sigev_signo = timer_signal();
  event.sigev_value.sival_int = id;
  event._sigev_un._tid = server_;
  Timer timer{.host = {}, .clock = clock, .notify = notify, .posix = posix, .last_overrun = 0};
  const auto place = timers_.emplace(id, timer).first;  // first: what the host has made is in the table
  if (timer_create(clock, &event, &place->second.host) == 0) return id;
  const int error = errno;
  timers_.erase(place);
  return -error;
}

std::int64_t Timers::create(clockid_t clock, const Notify& notify) {
  std::lock_guard guard(lock_);
  return create_locked(clock, notify, true);
}

std::int64_t Timers::set(int id, int flags, const itimerspec& value, itimerspec* old) {
  std::lock_guard guard(lock_);
  auto found = timers_.find(id);
  if (found == timers_.end() || !found->second.posix) return -EINVAL;
  itimerspec on_host = value;
  if (flags & TIMER_ABSTIME) on_host.it_value = process_.family.clocks.host_timer(found->second.clock, value.it_value);
  return timer_settime(found->second.host, flags, &on_host, old) == 0 ? 0 : -errno;
}

std::int64_t Timers::get(int id, itimerspec& value) {
  std::lock_guard guard(lock_);
  auto found = timers_.find(id);
  if (found == timers_.end() || !found->second.posix) return -EINVAL;
  return timer_gettime(found->second.host, &value) == 0 ? 0 : -errno;
}

void Timers::taken(const siginfo_t& info) {
  if (info.si_code != SI_TIMER) return;
  std::lock_guard guard(lock_);
  auto found = timers_.find(info.si_timerid);  // programs make such signals, too
  if (found != timers_.end()) found->second.last_overrun = info.si_overrun;
}

std::int64_t Timers::overrun(int id) {
  std::lock_guard guard(lock_);
  auto found = timers_.find(id);
  return found == timers_.end() || !found->second.posix ? -EINVAL : found->second.last_overrun;
}

std::int64_t Timers::remove(int id) {
  std::lock_guard guard(lock_);
  auto found = timers_.find(id);
  if (found == timers_.end() || !found->second.posix) return -EINVAL;
  timer_delete(found->second.host);
  timers_.erase(found);
  return 0;
}

std::size_t Timers::posix_count() {
  std::lock_guard guard(lock_);
  return static_cast<std::size_t>(std::ranges::count_if(timers_, [](const auto& entry) { return entry.second.posix; }));
}

void Timers::remove_posix() {
  std::lock_guard guard(lock_);
  std::erase_if(timers_, [](auto& entry) {
    if (!entry.second.posix) return false;
    timer_delete(entry.second.host);
    return true;
  });
}

std::int64_t Timers::interval_timer_locked(int which) {
  static constexpr clockid_t kClocks[] = {CLOCK_MONOTONIC, CLOCK_PROCESS_CPUTIME_ID, CLOCK_PROCESS_CPUTIME_ID};
  static constexpr int kRaised[] = {SIGALRM, SIGVTALRM, SIGPROF};
  if (interval_[which] < 0) {
    std::int64_t id = create_locked(kClocks[which], {.signal = kRaised[which], .tid = 0, .value = {}}, false);
    if (id < 0) return id;
    interval_[which] = static_cast<int>(id);
  }
  return interval_[which];
}

std::int64_t Timers::set_interval_timer(int which, const itimerspec& value, itimerspec* old) {
  std::lock_guard guard(lock_);
  if (interval_[which] < 0 && value.it_value.tv_sec == 0 && value.it_value.tv_nsec == 0) {
    if (old) *old = {};
    return 0;  // alarm(0) before any alarm needs no timer
  }
  std::int64_t id = interval_timer_locked(which);
  if (id < 0) return id;
  return timer_settime(timers_.at(static_cast<int>(id)).host, 0, &value, old) == 0 ? 0 : -errno;
}

std::int64_t Timers::get_interval_timer(int which, itimerspec& value) {
  std::lock_guard guard(lock_);
  value = {};
  if (interval_[which] < 0) return 0;
  return timer_gettime(timers_.at(interval_[which]).host, &value) == 0 ? 0 : -errno;
}

}  // namespace ramet::vmm
