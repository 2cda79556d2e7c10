#include "vmm/linux/files/async.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <exception>
#include <new>

#include "vmm/linux/files/owner.hpp"
#include "vmm/linux/patiently.hpp"
#include "vmm/linux/processes/family.hpp"
#include "vmm/signals_blocked.hpp"

namespace ramet::vmm {
namespace {

constexpr std::uint32_t kReading = EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLET;
// For a pipe, room becomes an edge only when the pipe was full. A socket wakes its writers at each read, while Linux
// signals room only after a write has found none: wants_room() arms that.
constexpr std::uint32_t kWritingPipe = EPOLLOUT | EPOLLET, kWriting = EPOLLONESHOT, kRoom = EPOLLOUT | EPOLLONESHOT;

bool control(const HostFd& epoll, int operation, int host, std::uint32_t events, std::uint64_t id) {
  epoll_event event{.events = events, .data = {.u64 = id}};
  return ::epoll_ctl(epoll.get(), operation, host, &event) == 0;
}

}  // namespace

AsyncWatch::~AsyncWatch() {
  LockGuard guard(by_->lock_);
  // A pipe's end is in one of the epolls only; the other call fails.
  (void)control(by_->in_, EPOLL_CTL_DEL, host_, 0, id_);
  (void)control(by_->out_, EPOLL_CTL_DEL, host_, 0, id_);
  by_->watched_.erase(id_);
}

void AsyncWatch::wants_room() {
  if (!pipe_) (void)control(by_->out_, EPOLL_CTL_MOD, host_, kRoom, id_);  // a socket's or a terminal's is in there
}

bool AsyncFiles::start_locked() {
  if (stopping_) return false;
  if (thread_.joinable()) return true;
  in_ = HostFd(::epoll_create1(EPOLL_CLOEXEC));
  out_ = HostFd(::epoll_create1(EPOLL_CLOEXEC));
  wake_ = HostFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!in_ || !out_ || !wake_) return false;
  const SignalsBlocked blocked;
  try {
    thread_ = std::thread([this] { serve(); });
  } catch (const std::exception&) {
    return false;  // the host has no thread, or no memory for one
  }
  return true;
}

OrErrno<std::shared_ptr<AsyncWatch>> AsyncFiles::watch(const OpenFile& file) {
  struct stat st;
  const int host = file.host.get(), access = file.flags & O_ACCMODE;
  if (::fstat(host, &st) != 0) return err(errno);
  const bool pipe = S_ISFIFO(st.st_mode);
  std::shared_ptr<AsyncWatch> watch;  // its destructor takes the lock
  LockGuard guard(lock_);
  if (watched_.size() >= kMost || !start_locked()) return err(ENOMEM);
  const std::uint64_t id = next_++;
  watch = std::make_shared<AsyncWatch>(shared_from_this(), id, host, pipe);
  events_.resize(watched_.size() + 1);
  Watched& added = watched_[id];
  added = {.owner = file.owner, .host = host, .pipe = pipe};
  const bool reads = !pipe || access != O_WRONLY, writes = !pipe || access != O_RDONLY;
  if (reads && !control(in_, EPOLL_CTL_ADD, host, kReading, id)) return err(errno);
  if (writes && !control(out_, EPOLL_CTL_ADD, host, pipe ? kWritingPipe : kWriting, id)) return err(errno);
  // A new registration reports at once what the file is ready for already: that is no event.
  collect_locked();
  added.in = added.out = 0;
  wake();
  return watch;
}

// The only place that takes events from the epolls, under the lock: so none is on its way while watch() adds a file.
void AsyncFiles::collect_locked() {
  for (const bool reading : {true, false}) {
    const int n = ::epoll_wait((reading ? in_ : out_).get(), events_.data(), static_cast<int>(events_.size()), 0);
    for (int i = 0; i < n; ++i) {
      const epoll_event& event = events_[static_cast<std::size_t>(i)];
      const std::uint64_t id = event.data.u64;  // the structure is packed
      const auto found = watched_.find(id);
      if (found != watched_.end()) (reading ? found->second.in : found->second.out) |= event.events;
    }
  }
}

std::vector<AsyncFiles::Ready> AsyncFiles::ready() {
  std::vector<Ready> all;
  LockGuard guard(lock_);
  all.reserve(watched_.size());
  collect_locked();
  for (auto& [id, w] : watched_) {
    if (!w.in && !w.out) continue;
    int bytes = 0;  // w.host is open: ~AsyncWatch() erases the entry before the file is closed
    const bool unread = ::ioctl(w.host, FIONREAD, &bytes) == 0 && bytes > 0;
    all.push_back({w.owner, reasons(w.pipe, w.in, w.out, unread)});
    w.in = w.out = 0;
  }
  return all;
}

unsigned AsyncFiles::reasons(bool pipe, std::uint32_t in, std::uint32_t out, bool unread) {
  // An end of a pipe gets the same reason when the other end has gone.
  if (pipe) return (in ? bit(POLL_IN) : 0) | (out ? bit(POLL_OUT) : 0);
  unsigned reasons = 0;
  if (in & EPOLLHUP) reasons |= bit(POLL_HUP) | (unread ? bit(POLL_IN) : 0);
  else if (in & EPOLLERR) reasons |= bit(POLL_ERR);
  else if (in & (EPOLLIN | EPOLLRDHUP)) reasons |= bit(POLL_IN);
  if (in & EPOLLPRI) reasons |= bit(POLL_PRI);
  if ((out & EPOLLOUT) && !(out & (EPOLLHUP | EPOLLERR))) reasons |= bit(POLL_OUT);
  return reasons;
}

void AsyncFiles::tell(const Ready& r) {
  for (const int reason : {POLL_IN, POLL_PRI, POLL_OUT, POLL_ERR, POLL_HUP}) {
    if (!(r.reasons & bit(reason))) continue;
    try {
      tell_owner(family_, *r.owner, reason);
    } catch (const std::bad_alloc&) {
      // The signal is lost where the host has no memory.
    }
  }
}

void AsyncFiles::serve() {
  for (;;) {
    std::array<pollfd, 3> wait{{{in_.get(), POLLIN, 0}, {out_.get(), POLLIN, 0}, {wake_.get(), POLLIN, 0}}};
    (void)::poll(wait.data(), wait.size(), -1);  // an interrupted one does no harm
    std::uint64_t count;
    (void)::read(wake_.get(), &count, sizeof count);  // nobody may have called wake()
    {
      LockGuard guard(lock_);
      if (stopping_) return;
    }
    for (const Ready& r : patiently([this] { return ready(); })) tell(r);
  }
}

void AsyncFiles::wake() {
  const std::uint64_t one = 1;
  (void)::write(wake_.get(), &one, sizeof one);  // a full counter wakes as well
}

void AsyncFiles::stop() {
  {
    LockGuard guard(lock_);
    stopping_ = true;
  }
  if (!thread_.joinable()) return;
  wake();
  thread_.join();
}

}  // namespace ramet::vmm
