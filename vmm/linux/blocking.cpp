// Interruptible waits, which the kick signal ends.
#include "vmm/linux/blocking.hpp"

#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>

#include "arch/interruptible.hpp"
#include "vmm/kick_signal.hpp"
#include "vmm/linux/syscall.hpp"

namespace ramet::vmm {

void Interruption::raise(pthread_t owner) {
  set();
  if (waiting_.load(std::memory_order_seq_cst)) pthread_kill(owner, kick_signal());
}

namespace {

// Sends the kick signal to the thread that made it, once a millisecond. False: the host has no timer for that.
class Kicks {
 public:
  Kicks() {
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = kick_signal();
    event._sigev_un._tid = ::gettid();
    good_ = ::timer_create(CLOCK_MONOTONIC, &event, &timer_) == 0;
    constexpr timespec kEach{0, 1'000'000};
    constexpr itimerspec kOften{kEach, kEach};
    if (good_) ::timer_settime(timer_, 0, &kOften, nullptr);
  }
  ~Kicks() {
    if (good_) ::timer_delete(timer_);
  }
  Kicks(const Kicks&) = delete;
  explicit operator bool() const { return good_; }

 private:
  timer_t timer_{};
  bool good_;
};

}  // namespace

std::int64_t Interruption::at_once(long number, std::array<std::uint64_t, 6> arguments) {
  constexpr timespec kNone{};
  short events = 0;
  switch (number) {
    case SYS_ppoll: arguments[2] = reinterpret_cast<std::uint64_t>(&kNone); break;
    case SYS_epoll_pwait: arguments[3] = 0; break;
    case SYS_preadv2:
    case SYS_recvmsg:
    case SYS_accept4: events = POLLIN; break;
    case SYS_pwritev2:
    case SYS_sendmsg: events = POLLOUT; break;
    default: return -EINTR;
  }
  if (events == 0) {
    const std::int64_t ready = result_of(
        ::syscall(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5]));
    return ready == 0 ? -EINTR : ready;
  }
  // Another reader may take what is there, or it may not be enough: then the call waits until the next kick.
  pollfd file{.fd = static_cast<int>(arguments[0]), .events = events, .revents = 0};
  if (::poll(&file, 1, 0) != 1) return -EINTR;
  const Kicks kicks;
  return kicks
             ? arch::ramet_interruptible_again(reinterpret_cast<const std::uint32_t*>(&word_), number, arguments.data())
             : -EINTR;
}

std::int64_t Interruption::wait(long number, const std::array<std::uint64_t, 6>& arguments) {
  static_assert(sizeof(word_) == sizeof(std::uint32_t) && std::atomic<std::uint32_t>::is_always_lock_free);
  waiting_.store(true, std::memory_order_seq_cst);
  std::int64_t result;
  do {
    result = arch::ramet_interruptible_syscall(reinterpret_cast<const std::uint32_t*>(&word_), number,
                                               arguments.data());
    // Another signal, such as a kick of the vCPU that came late: wait on.
  } while (result == -EINTR && !raised());
  waiting_.store(false, std::memory_order_release);
  return result == -EINTR ? at_once(number, arguments) : result;
}

}  // namespace ramet::vmm
