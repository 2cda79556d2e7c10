#include "vmm/snapshot/event_files.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "vmm/host_time.hpp"
#include "vmm/linux/events/epoll.hpp"
#include "vmm/linux/files/host_fdinfo.hpp"
#include "vmm/linux/files/state.hpp"
#include "vmm/linux/signals/signalfd.hpp"
#include "vmm/linux/time/guest_time.hpp"

namespace ramet::vmm::snapshot {
namespace {

using std::chrono::nanoseconds;
using Kind = OpenFile::Kind;

std::unexpected<Failure> no_room(const File& file, const char* what, int error) {
  return failure(
      fmt::format("{} cannot be continued: the host has no {} for it: {}", file.path(), what, std::strerror(error)));
}

// --- eventfds ---

std::expected<void, std::string> describe_event(const OpenFile& file, FileState& f) {
  const auto count = host_fdinfo(file.host.get(), "eventfd-count:");
  if (count.size() != 1) return std::unexpected("is an eventfd, whose count this host does not tell");
  f.count = std::strtoull(count[0].c_str(), nullptr, 16);
  f.semaphore = file.semaphore;
  return {};
}

std::expected<std::shared_ptr<OpenFile>, Failure> make_event(const File& file, const FileState& f) {
  HostFd host(::eventfd(0, EFD_CLOEXEC | (f.semaphore ? EFD_SEMAPHORE : 0)));
  if (!host) return no_room(file, "eventfd", errno);
  if (f.count == ~std::uint64_t{0} || ::eventfd_write(host.get(), f.count) != 0) return impossible(file, "eventfds");
  auto opened = make_file(Kind::Event, std::move(host), O_RDWR);
  opened->semaphore = f.semaphore;
  return opened;
}

// --- timerfds ---

std::array<std::int64_t, 2> to_state(const timespec& t) { return {t.tv_sec, t.tv_nsec}; }
timespec from_state(const std::array<std::int64_t, 2>& t) { return {t[0], t[1]}; }

std::expected<void, std::string> describe_timer(const OpenFile& file, FileState& f) {
  const int host = file.host.get();
  TimerFdState t;
  t.clock = file.clock;
  itimerspec set{};
  // Retry if the timer expired between the reads; give up on one that always does.
  for (int looks = 0; looks < 10; ++looks) {
    pollfd readable{.fd = host, .events = POLLIN, .revents = 0};
    std::uint64_t expired = 0;
    if (::poll(&readable, 1, 0) == 1 && ::read(host, &expired, sizeof expired) == sizeof expired) t.expired += expired;
    else if (looks > 0) break;
    if (::timerfd_gettime(host, &set) != 0)
      return std::unexpected("is a timerfd, of which this host does not tell what is left");
  }
  const auto flags = host_fdinfo(host, "settime flags:");
  if (flags.size() != 1) return std::unexpected("is a timerfd, of which this host does not tell how it is set");
  const long how = std::strtol(flags[0].c_str(), nullptr, 8);
  const bool armed = set.it_value.tv_sec || set.it_value.tv_nsec;
  t.absolute = armed && t.clock == CLOCK_REALTIME && (how & TFD_TIMER_ABSTIME);
  t.cancelled_by_set = t.absolute && (how & TFD_TIMER_CANCEL_ON_SET);
  t.left = to_state(t.absolute ? sum(to_timespec(*host_time(CLOCK_REALTIME)), set.it_value) : set.it_value);
  t.interval = to_state(set.it_interval);
  f.timer.push_back(t);
  return {};
}

// No host call sets a timer's count of expirations, but a timer that is set to a time in the past counts those since
// then.
Status arm(const File& file, int host, const TimerFdState& t) {
  // A century: as good as never, and sums of a few do not overflow.
  constexpr std::chrono::seconds kMost{1ll << 32};
  itimerspec set{.it_interval = from_state(t.interval), .it_value = from_state(t.left)};
  if (!valid_time(set.it_interval) || !valid_time(set.it_value)) return impossible(file, "timerfds");
  const nanoseconds interval = std::min<nanoseconds>(to_nanoseconds(set.it_interval), kMost);
  const nanoseconds left = std::min<nanoseconds>(to_nanoseconds(set.it_value), kMost);
  const nanoseconds now = host_time(t.clock).value_or(nanoseconds(0));
  const bool armed = left.count() != 0;
  std::uint64_t expired = t.expired;
  int flags = 0;
  if (expired != 0 || t.absolute) {
    nanoseconds next = t.absolute ? left : armed ? now + left : interval.count() ? now + interval : nanoseconds(1);
    if (interval.count()) {
      if (t.absolute && next <= now) {  // expirations since it was saved count as one
        next += ((now - next) / interval + 1) * interval;
        if (expired != ~std::uint64_t{0}) ++expired;
      }
      // Not before the clock's beginning.
      const auto most = static_cast<std::uint64_t>((next.count() - 1) / interval.count());
      next -= static_cast<std::int64_t>(std::min(expired, most)) * interval;
    }
    set.it_value = to_timespec(next);
    flags = TFD_TIMER_ABSTIME | (t.cancelled_by_set ? TFD_TIMER_CANCEL_ON_SET : 0);
  }
  return ::timerfd_settime(host, flags, &set, nullptr) == 0 ? Status{} : impossible(file, "timerfds");
}

std::expected<std::shared_ptr<OpenFile>, Failure> make_timer(const File& file, const FileState& f) {
  if (f.timer.size() != 1) return impossible(file, "timerfds");
  const TimerFdState& t = f.timer[0];
  const bool known = t.clock == CLOCK_REALTIME || t.clock == CLOCK_MONOTONIC || t.clock == CLOCK_BOOTTIME;
  if (!known || (t.absolute && t.clock != CLOCK_REALTIME)) return impossible(file, "timerfds");
  HostFd host(::timerfd_create(t.clock, TFD_CLOEXEC));
  if (!host) return no_room(file, "timerfd", errno);
  if (auto armed = arm(file, host.get(), t); !armed) return std::unexpected(armed.error());
  auto opened = make_file(Kind::Timer, std::move(host), O_RDWR);
  opened->clock = t.clock;
  return opened;
}

// --- signalfds ---

std::expected<std::shared_ptr<OpenFile>, Failure> make_signal(const File& file, Process& process, const FileState& f) {
  auto opened = make_signal_fd(f.mask, 0);
  if (!opened) return no_room(file, "signalfd", opened.error());
  tell_from_now_on(process, *opened);
  return *opened;
}

// --- epoll instances ---

std::expected<std::shared_ptr<OpenFile>, Failure> make_epoll(const File& file) {
  HostFd host(::epoll_create1(EPOLL_CLOEXEC));
  if (!host) return no_room(file, "epoll instance", errno);
  return make_file(Kind::Epoll, std::move(host), O_RDWR);
}

// An EPOLLONESHOT entry that has fired waits for nothing, not even for errors, until it is armed again.
constexpr std::uint32_t kHow = EPOLLONESHOT | EPOLLET | EPOLLWAKEUP | EPOLLEXCLUSIVE;
bool has_fired(std::uint32_t events) { return (events & EPOLLONESHOT) && !(events & ~kHow); }

// The files by the host's descriptors that stand for them in epoll instances. Of WatchState, `fd` and `file` are set.
std::map<int, WatchState> by_host(const KnownFiles& known) {
  std::map<int, WatchState> all;
  for (const auto& [file, index] : known) {
    auto& w = file->watched;
    LockGuard guard(w.lock);
    for (std::size_t i = 0; i < w.numbers.size(); ++i)
      all[i == 0 ? file->host.get() : w.others[i - 1].get()] = {.fd = w.numbers[i], .file = index};
  }
  return all;
}

}  // namespace

std::expected<void, std::string> describe_event_file(const OpenFile& file, FileState& f) {
  switch (file.kind) {
    case Kind::Event: return describe_event(file, f);
    case Kind::Timer: return describe_timer(file, f);
    case Kind::Signal: f.mask = signal_fd_of(file).mask; return {};
    default: return {};
  }
}

std::expected<std::shared_ptr<OpenFile>, Failure> make_event_file(const File& file, Process& process,
                                                                  const FileState& f) {
  switch (static_cast<Kind>(f.kind)) {
    case Kind::Event: return make_event(file, f);
    case Kind::Timer: return make_timer(file, f);
    case Kind::Signal: return make_signal(file, process, f);
    default: return make_epoll(file);
  }
}

std::expected<std::vector<WatchState>, std::string> describe_watches(const OpenFile& epoll, const KnownFiles& known) {
  const auto files = by_host(known);
  std::vector<WatchState> watches;
  for (const std::string& line : host_fdinfo(epoll.host.get(), "tfd:")) {
    int host = -1;
    unsigned events = 0;
    unsigned long long data = 0;
    unsigned long inode = 0;
    if (std::sscanf(line.c_str(), "%d events: %x data: %llx pos:%*d ino:%lx", &host, &events, &data, &inode) != 4)
      return std::unexpected("is an epoll instance, of which this host does not tell what it watches");
    // The host keeps an entry as long as any process has its file open; the entry's descriptor number may be reused.
    const auto file = files.find(host);
    struct stat st;
    if (file == files.end() || ::fstat(host, &st) != 0 || st.st_ino != inode)
      return std::unexpected("is an epoll instance that watches a file which none of its descriptors leads to");
    watches.push_back({.fd = file->second.fd, .file = file->second.file, .events = events, .data = data});
  }
  if (!epoll.disarmed) return watches;
  LockGuard guard(epoll.disarmed->lock);
  for (const Disarmed::Entry& entry : epoll.disarmed->entries)
    if (const auto file = entry.file.lock(); file && known.contains(file.get()))
      watches.push_back({.fd = entry.number,
                         .file = known.at(file.get()),
                         .events = entry.event.events,
                         .data = entry.event.data.u64});
  return watches;
}

Status restore_watches(const File& file, OpenFile& epoll, const FileState& f,
                       const std::vector<std::shared_ptr<OpenFile>>& opened) {
  for (const WatchState& w : f.watches) {
    const bool there = index_ok(w.file, opened.size()) && opened[static_cast<std::size_t>(w.file)];
    if (!there || w.fd < 0 || w.fd >= kMaxDescriptors) return impossible(file, "epoll instances");
    const auto& watched = opened[static_cast<std::size_t>(w.file)];
    epoll_event event{};
    event.events = w.events, event.data.u64 = w.data;
    if (has_fired(w.events)) {
      if (!epoll.disarmed) epoll.disarmed = std::make_shared<Disarmed>();
      LockGuard guard(epoll.disarmed->lock);
      epoll.disarmed->entries.push_back({watched, w.fd, event});
      continue;
    }
    std::int64_t added = control_epoll(epoll, watched, w.fd, EPOLL_CTL_ADD, event);
    if (added == -EPERM && watched->standard >= 0) {
      if (auto ready = always_ready(*watched, w.fd); !ready) return no_room(file, "eventfd", ready.error());
      added = control_epoll(epoll, watched, w.fd, EPOLL_CTL_ADD, event);
    }
    if (added == -ENOSPC || added == -ENOMEM) return no_room(file, "room in epoll instances", static_cast<int>(-added));
    if (added != 0) return impossible(file, "epoll instances");
  }
  return {};
}

}  // namespace ramet::vmm::snapshot
