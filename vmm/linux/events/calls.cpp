// System calls that make or wait for events: pipes, poll, select, epoll, eventfd, timerfd.
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "vmm/linux/events/epoll.hpp"
#include "vmm/linux/files/state.hpp"
#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/time/guest_time.hpp"
#include "vmm/linux/user_memory.hpp"

namespace ramet::vmm {
namespace {

// A guest descriptor for a host descriptor that was just made.
OrErrno<int> install(Thread& thread, HostFd host, OpenFile::Kind kind, int flags, bool close_on_exec,
                     clockid_t clock = {}) {
  auto file = make_file(kind, std::move(host), flags);
  file->clock = clock;
  return thread.process.files.install(std::move(file), close_on_exec);
}

std::int64_t as_result(const OrErrno<int>& fd) { return fd ? *fd : -fd.error(); }

// --- pipes, eventfd, timerfd ---

std::int64_t make_pipe(Thread& thread, mm::Gva at, int flags) {  // the host's
  if (flags & ~(O_CLOEXEC | O_NONBLOCK | O_DIRECT)) return -EINVAL;
  int host[2];
  if (pipe2(host, flags | O_CLOEXEC) != 0) return -errno;
  HostFd reader(host[0]), writer(host[1]);
  auto in = make_file(OpenFile::Kind::Pipe, std::move(reader), O_RDONLY),
       out = make_file(OpenFile::Kind::Pipe, std::move(writer), O_WRONLY);
  if (!state_of(thread).charge(*in)) return -ENFILE;
  out->charged = in->charged;  // one pipe has two ends
  auto pair = state_of(thread).install_pair(std::move(in), std::move(out), flags & O_CLOEXEC);
  if (!pair) return -pair.error();
  if (put_user(thread.memory(), at, *pair) == 0) return 0;
  for (int fd : *pair) thread.process.files.close(fd);
  return -EFAULT;
}

std::int64_t sys_pipe(Thread& thread, const Args& a) { return make_pipe(thread, a[0], 0); }
std::int64_t sys_pipe2(Thread& thread, const Args& a) {
  return make_pipe(thread, a[0], static_cast<int>(thread.abi().open_flags_to_host(a.u32(1))));
}

std::int64_t make_eventfd(Thread& thread, unsigned initial, int flags) {
  HostFd host(eventfd(initial, flags | EFD_CLOEXEC));
  if (!host) return -errno;
  auto file = make_file(OpenFile::Kind::Event, std::move(host), O_RDWR);
  file->semaphore = flags & EFD_SEMAPHORE;
  return as_result(thread.process.files.install(std::move(file), flags & EFD_CLOEXEC));
}
std::int64_t sys_eventfd(Thread& thread, const Args& a) { return make_eventfd(thread, a.u32(0), 0); }
std::int64_t sys_eventfd2(Thread& thread, const Args& a) { return make_eventfd(thread, a.u32(0), a.i32(1)); }

std::int64_t sys_timerfd_create(Thread& thread, const Args& a) {
  const int clock = a.i32(0), flags = a.i32(1);
  if (flags & ~(TFD_CLOEXEC | TFD_NONBLOCK)) return -EINVAL;
  if (clock == CLOCK_REALTIME_ALARM || clock == CLOCK_BOOTTIME_ALARM) return -EPERM;
  HostFd host(timerfd_create(clock, flags | TFD_CLOEXEC));
  if (!host) return -errno;
  return as_result(install(thread, std::move(host), OpenFile::Kind::Timer, O_RDWR, flags & TFD_CLOEXEC, clock));
}

OrErrno<std::shared_ptr<OpenFile>> get(Thread& thread, int fd, OpenFile::Kind kind) {
  auto file = thread.process.files.get(fd);
  if (!file) return err(EBADF);
  if (file->kind != kind) return err(EINVAL);
  return file;
}

std::int64_t sys_timerfd_settime(Thread& thread, const Args& a) {
  auto value = read_user<itimerspec>(thread.memory(), a[2]);
  if (!value) return -value.error();
  auto file = get(thread, a.i32(0), OpenFile::Kind::Timer);
  if (!file) return -file.error();
  itimerspec old{};
  if (a.i32(1) & TFD_TIMER_ABSTIME)
    value->it_value = thread.process.family.clocks.host_timer((*file)->clock, value->it_value);
  if (timerfd_settime((*file)->host.get(), a.i32(1), &*value, &old) != 0) return -errno;
  return a[3] ? put_user(thread.memory(), a[3], old) : 0;
}

std::int64_t sys_timerfd_gettime(Thread& thread, const Args& a) {
  auto file = get(thread, a.i32(0), OpenFile::Kind::Timer);
  if (!file) return -file.error();
  itimerspec value{};
  if (timerfd_gettime((*file)->host.get(), &value) != 0) return -errno;
  return put_user(thread.memory(), a[1], value);
}

// --- poll and select: both wait in the host's ppoll ---

using Deadline = std::optional<timespec>;  // CLOCK_MONOTONIC; none: for ever

// Negative: for ever.
Deadline after_milliseconds(int ms) {
  if (ms < 0) return std::nullopt;
  return deadline_after(CLOCK_MONOTONIC, from_milliseconds(ms));
}

// Descriptors that are waited for, in the guest's order.
struct PollSet {
  std::vector<pollfd> host;
  std::vector<std::shared_ptr<OpenFile>> keep;
  std::size_t invalid = 0;  // entries already answered with POLLNVAL

  void add(Thread& thread, int fd, short events) {
    auto file = fd < 0 ? nullptr : thread.process.files.get(fd);
    const bool bad = fd >= 0 && !file;
    invalid += bad;
    if (file && file->operations) file->operations->watch();
    host.push_back(
        {.fd = file ? file->host.get() : -1, .events = events, .revents = static_cast<short>(bad ? POLLNVAL : 0)});
    keep.push_back(std::move(file));
  }

  // Ready entries, 0 on time-out, or -errno; -EINTR if a signal is to be delivered.
  std::int64_t wait(Thread& thread, const Deadline& deadline) {
    timespec left{};
    if (deadline && invalid == 0) left = time_left(CLOCK_MONOTONIC, *deadline);
    const bool for_ever = !deadline && invalid == 0;
    std::vector<short> answered;
    for (const pollfd& p : host) answered.push_back(p.revents);
    std::int64_t r = thread.blocking(SYS_ppoll, reinterpret_cast<std::uint64_t>(host.data()), host.size(),
                                     for_ever ? 0 : reinterpret_cast<std::uint64_t>(&left), 0, sizeof(std::uint64_t));
    for (std::size_t i = 0; i < host.size(); ++i) host[i].revents = static_cast<short>(host[i].revents | answered[i]);
    return r < 0 ? r : r + static_cast<std::int64_t>(invalid);
  }
};

OrErrno<PollSet> read_poll_set(Thread& thread, mm::Gva at, std::uint64_t count) {
  const std::size_t limit = state_of(thread).descriptor_limit();
  auto guest = read_user_array<pollfd>(thread.memory(), at, count, limit);
  if (!guest) return err(guest.error());
  PollSet set;
  for (const pollfd& p : *guest) set.add(thread, p.fd, p.events);
  return set;
}

std::int64_t write_poll_set(Thread& thread, mm::Gva at, const PollSet& set, std::int64_t ready) {
  for (std::size_t i = 0; i < set.host.size(); ++i)
    if (put_user(thread.memory(), at + i * sizeof(pollfd) + offsetof(pollfd, revents), set.host[i].revents) != 0)
      return -EFAULT;
  return ready;
}

std::int64_t poll_until(Thread& thread, mm::Gva at, std::uint64_t count, const Deadline& deadline) {
  auto set = read_poll_set(thread, at, count);
  if (!set) return -set.error();
  std::int64_t ready = set->wait(thread, deadline);
  if (ready == -EINTR) {
    thread.restart = [=](Thread& same) { return poll_until(same, at, count, deadline); };
    return kRestartBlock;
  }
  return ready < 0 ? ready : write_poll_set(thread, at, *set, ready);
}

std::int64_t sys_poll(Thread& thread, const Args& a) {
  return poll_until(thread, a[0], a.u32(1), after_milliseconds(a.i32(2)));
}

// The optional struct timespec of ppoll and pselect6.
OrErrno<Deadline> read_deadline(Thread& thread, mm::Gva at) {
  if (!at) return Deadline{};
  auto wait = read_time(thread.memory(), at);
  if (!wait) return err(wait.error());
  return deadline_after(CLOCK_MONOTONIC, *wait);
}

// The optional signal mask of ppoll, pselect6 and epoll_pwait.
OrErrno<void> use_mask(Thread& thread, mm::Gva at, std::uint64_t size) {
  if (!at) return {};
  if (size != sizeof(SignalSet)) return err(EINVAL);
  auto mask = read_user<SignalSet>(thread.memory(), at);
  if (!mask) return err(mask.error());
  thread.set_temporary_mask(*mask);
  return {};
}

// Writes the time that is left back, as Linux does, which ignores that it cannot.
void write_time_left(Thread& thread, mm::Gva at, const Deadline& deadline) {
  if (at && deadline) (void)put_user(thread.memory(), at, time_left(CLOCK_MONOTONIC, *deadline));
}

std::int64_t sys_ppoll(Thread& thread, const Args& a) {
  auto deadline = read_deadline(thread, a[2]);
  if (!deadline) return -deadline.error();
  auto set = read_poll_set(thread, a[0], a.u32(1));
  if (!set) return -set.error();
  if (auto masked = use_mask(thread, a[3], a[4]); !masked) return -masked.error();
  std::int64_t ready = set->wait(thread, *deadline);
  write_time_left(thread, a[2], *deadline);
  if (ready == -EINTR) return kRestartNoHand;
  return ready < 0 ? ready : write_poll_set(thread, a[0], *set, ready);
}

// What select(2)'s three sets mean in poll's terms, as Linux defines it.
constexpr short kSelectRead = POLLIN | POLLRDNORM | POLLRDBAND | POLLHUP | POLLERR;
constexpr short kSelectWrite = POLLOUT | POLLWRNORM | POLLWRBAND | POLLERR;
constexpr short kSelectExcept = POLLPRI;
constexpr std::array<short, 3> kSelect{kSelectRead, kSelectWrite, kSelectExcept};

std::int64_t select_until(Thread& thread, int count, const std::array<mm::Gva, 3>& at, const Deadline& deadline) {
  if (count < 0) return -EINVAL;
  count = std::min<int>(count, Limits::kOpenFiles);
  const std::size_t words = (static_cast<std::size_t>(count) + 63) / 64;
  std::array<std::vector<std::uint64_t>, 3> sets;
  for (unsigned s = 0; s < 3; ++s) {
    if (!at[s]) {
      sets[s].resize(words);
      continue;
    }
    auto user = read_user_array<std::uint64_t>(thread.memory(), at[s], words, words);
    if (!user) return -user.error();
    sets[s] = std::move(*user);
  }
  auto in = [&](unsigned s, int fd) { return sets[s][static_cast<std::size_t>(fd) / 64] >> (fd % 64) & 1; };

  PollSet set;
  std::vector<int> fds;
  for (int fd = 0; fd < count; ++fd) {
    short events = 0;
    for (unsigned s = 0; s < 3; ++s)
      if (in(s, fd)) events = static_cast<short>(events | kSelect[s]);
    if (!events) continue;
    fds.push_back(fd);
    set.add(thread, fd, events);
  }
  if (set.invalid) return -EBADF;
  std::int64_t ready = set.wait(thread, deadline);
  if (ready < 0) return ready == -EINTR ? kRestartNoHand : ready;

  std::array<std::vector<std::uint64_t>, 3> result;
  for (auto& r : result) r.resize(words);
  std::int64_t bits = 0;
  for (std::size_t i = 0; i < fds.size(); ++i)
    for (unsigned s = 0; s < 3; ++s)
      if (in(s, fds[i]) && (set.host[i].revents & kSelect[s])) {
        result[s][static_cast<std::size_t>(fds[i]) / 64] |= 1ull << (fds[i] % 64);
        ++bits;
      }
  for (unsigned s = 0; s < 3; ++s)
    if (at[s] && !thread.memory().write(at[s], std::as_bytes(std::span(result[s])))) return -EFAULT;
  return bits;
}

std::int64_t sys_select(Thread& thread, const Args& a) {
  Deadline deadline;
  if (a[4]) {
    auto wait = read_user<timeval>(thread.memory(), a[4]);
    if (!wait) return -wait.error();
    auto time = carried(*wait);
    if (!time) return -time.error();
    deadline = deadline_after(CLOCK_MONOTONIC, *time);
  }
  std::int64_t r = select_until(thread, a.i32(0), {a[1], a[2], a[3]}, deadline);
  if (a[4] && deadline)
    (void)put_user(thread.memory(), a[4], to_timeval(time_left(CLOCK_MONOTONIC, *deadline)));  // as write_time_left()
  return r;
}

std::int64_t sys_pselect6(Thread& thread, const Args& a) {
  auto deadline = read_deadline(thread, a[4]);
  if (!deadline) return -deadline.error();
  if (a[5]) {
    struct MaskArgument {
      std::uint64_t at, size;
    };
    auto mask = read_user<MaskArgument>(thread.memory(), a[5]);
    if (!mask) return -mask.error();
    if (auto masked = use_mask(thread, mask->at, mask->size); !masked) return -masked.error();
  }
  std::int64_t r = select_until(thread, a.i32(0), {a[1], a[2], a[3]}, *deadline);
  write_time_left(thread, a[4], *deadline);
  return r;
}

// --- epoll ---

std::int64_t make_epoll(Thread& thread, bool close_on_exec) {
  HostFd host(epoll_create1(EPOLL_CLOEXEC));
  if (!host) return -errno;
  return as_result(install(thread, std::move(host), OpenFile::Kind::Epoll, O_RDWR, close_on_exec));
}
std::int64_t sys_epoll_create(Thread& thread, const Args& a) {
  return a.i32(0) <= 0 ? -EINVAL : make_epoll(thread, false);
}
std::int64_t sys_epoll_create1(Thread& thread, const Args& a) {
  return a.i32(0) & ~EPOLL_CLOEXEC ? -EINVAL : make_epoll(thread, a.i32(0) & EPOLL_CLOEXEC);
}

std::int64_t sys_epoll_ctl(Thread& thread, const Args& a) {
  epoll_event event{};
  if (a.i32(1) != EPOLL_CTL_DEL) {
    const auto& layout = thread.abi().epoll_event;
    std::array<std::byte, 16> bytes;  // the larger layout
    if (!thread.memory().read(a[3], std::span(bytes).first(layout.bytes))) return -EFAULT;
    std::memcpy(&event.events, bytes.data(), sizeof event.events);
    std::memcpy(&event.data, bytes.data() + layout.data, sizeof event.data);
  }
  auto target = thread.process.files.get(a.i32(2));
  if (!target) return -EBADF;
  auto epoll = get(thread, a.i32(0), OpenFile::Kind::Epoll);
  if (!epoll) return -epoll.error();
  return control_epoll(**epoll, target, a.i32(2), a.i32(1), event);
}

std::int64_t epoll_until(Thread& thread, const Args& a, const Deadline& deadline, mm::Gva mask,
                         std::uint64_t mask_size) {
  if (a.i32(2) <= 0 || a.i32(2) > static_cast<int>(INT32_MAX / thread.abi().epoll_event.bytes)) return -EINVAL;
  auto epoll = get(thread, a.i32(0), OpenFile::Kind::Epoll);
  if (!epoll) return -epoll.error();
  if (auto masked = use_mask(thread, mask, mask_size); !masked) return -masked.error();
  // As many as a process has descriptors, as programs expect all that are ready. Not zeroed, as most waits find one or
  // two.
  const auto room = static_cast<std::size_t>(std::min<int>(a.i32(2), kMaxDescriptors));
  const auto events = std::make_unique_for_overwrite<epoll_event[]>(room);
  std::int64_t ready;
  do {
    thread.process.files.state().devices->refresh();
    const int ms = deadline ? to_milliseconds(time_left(CLOCK_MONOTONIC, *deadline)) : -1;
    ready = thread.blocking(SYS_epoll_pwait, static_cast<std::uint64_t>((*epoll)->host.get()),
                            reinterpret_cast<std::uint64_t>(events.get()), room, static_cast<std::uint64_t>(ms), 0,
                            sizeof(SignalSet));
    // The host's wait ends after 25 days (INT_MAX ms): longer ones repeat it.
  } while (ready == 0 && deadline && time_left(CLOCK_MONOTONIC, *deadline).tv_sec > 0);
  if (ready <= 0) return ready;
  const auto& layout = thread.abi().epoll_event;
  std::vector<std::byte> bytes(static_cast<std::size_t>(ready) * layout.bytes);
  for (std::size_t i = 0; i < static_cast<std::size_t>(ready); ++i) {
    std::byte* const one = bytes.data() + i * layout.bytes;
    std::memcpy(one, &events[i].events, sizeof events[i].events);
    std::memcpy(one + layout.data, &events[i].data, sizeof events[i].data);
  }
  return thread.memory().write(a[1], bytes) ? ready : -EFAULT;
}

std::int64_t sys_epoll_wait(Thread& thread, const Args& a) {
  return epoll_until(thread, a, after_milliseconds(a.i32(3)), 0, 0);
}
std::int64_t sys_epoll_pwait(Thread& thread, const Args& a) {
  return epoll_until(thread, a, after_milliseconds(a.i32(3)), a[4], a[5]);
}
std::int64_t sys_epoll_pwait2(Thread& thread, const Args& a) {
  auto deadline = read_deadline(thread, a[3]);
  return deadline ? epoll_until(thread, a, *deadline, a[4], a[5]) : -deadline.error();
}

}  // namespace

std::span<const Definition> event_calls() {
  static constexpr Definition kCalls[] = {
      {Call::pipe, sys_pipe},
      {Call::pipe2, sys_pipe2},
      {Call::eventfd, sys_eventfd},
      {Call::eventfd2, sys_eventfd2},
      {Call::timerfd_create, sys_timerfd_create},
      {Call::timerfd_settime, sys_timerfd_settime},
      {Call::timerfd_gettime, sys_timerfd_gettime},
      {Call::poll, sys_poll},
      {Call::ppoll, sys_ppoll},
      {Call::select, sys_select},
      {Call::pselect6, sys_pselect6},
      {Call::epoll_create, sys_epoll_create},
      {Call::epoll_create1, sys_epoll_create1},
      {Call::epoll_ctl, sys_epoll_ctl},
      {Call::epoll_wait, sys_epoll_wait},
      {Call::epoll_pwait, sys_epoll_pwait},
      {Call::epoll_pwait2, sys_epoll_pwait2},
  };
  return kCalls;
}

}  // namespace ramet::vmm
