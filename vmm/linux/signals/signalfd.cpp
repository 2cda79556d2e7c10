#include "vmm/linux/signals/signalfd.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <optional>

#include "vmm/linux/files/state.hpp"
#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/time/timers.hpp"
#include "vmm/linux/user_memory.hpp"

namespace ramet::vmm {
namespace {

constexpr std::size_t kRecord = sizeof(signalfd_siginfo);

void raise(const OpenFile& file) {
  // A full socket is readable already.
  (void)::send(signal_fd_of(file).teller.get(), "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

// Makes the file not readable any more, unless a process that has it open has a signal for it. Senders queue a signal
// first and call raise() then: so a signal that is queued after this has looked is not missed.
void look_again(Family& family, const OpenFile& file) {
  char bytes[256];
  while (::recv(file.host.get(), bytes, sizeof bytes, MSG_DONTWAIT) > 0) {}
  const SignalSet mask = signal_fd_of(file).mask;
  for (const auto& member : family.all()) {
    Process& process = *member;
    LockGuard threads(process.threads_lock);
    LockGuard guard(process.signals.lock);
    if (std::ranges::none_of(process.signals.fds, [&](const auto& f) { return f.lock().get() == &file; })) continue;
    SignalSet pending = process.signals.pending.set;
    for (const auto& thread : process.threads) pending |= thread->signals.pending.set;
    if (pending & mask) raise(file);
  }
}

// Linux's signalfd_copyinfo(): which fields are filled depends on the kind of signal.
signalfd_siginfo record_of(const siginfo_t& info) {
  signalfd_siginfo r{};
  r.ssi_signo = static_cast<std::uint32_t>(info.si_signo);
  r.ssi_errno = info.si_errno;
  r.ssi_code = info.si_code;
  if (info.si_code == SI_TIMER) {
    r.ssi_tid = static_cast<std::uint32_t>(info.si_timerid);
    r.ssi_overrun = static_cast<std::uint32_t>(info.si_overrun);
    r.ssi_ptr = reinterpret_cast<std::uint64_t>(info.si_value.sival_ptr);
    r.ssi_int = info.si_value.sival_int;
    return r;
  }
  const bool fault = info.si_signo == SIGSEGV || info.si_signo == SIGBUS || info.si_signo == SIGILL ||
                     info.si_signo == SIGFPE;
  if (info.si_code > 0 && fault) {
    r.ssi_addr = reinterpret_cast<std::uint64_t>(info.si_addr);
    return r;
  }
  const bool poll = info.si_code == SI_SIGIO ||
                    (info.si_code >= POLL_IN && info.si_code <= POLL_HUP && info.si_signo != SIGCHLD);
  if (poll) {
    r.ssi_band = static_cast<std::uint32_t>(info.si_band);
    r.ssi_fd = info.si_fd;
    return r;
  }
  r.ssi_pid = static_cast<std::uint32_t>(info.si_pid);
  r.ssi_uid = info.si_uid;
  if (info.si_code > 0 && info.si_signo == SIGCHLD) {
    r.ssi_status = info.si_status;
    r.ssi_utime = static_cast<std::uint64_t>(info.si_utime);
    r.ssi_stime = static_cast<std::uint64_t>(info.si_stime);
  } else if (info.si_code < 0 && info.si_code != SI_TKILL) {
    r.ssi_ptr = reinterpret_cast<std::uint64_t>(info.si_value.sival_ptr);
    r.ssi_int = info.si_value.sival_int;
  }
  return r;
}

std::optional<signalfd_siginfo> take(Thread& thread, SignalSet mask) {
  std::optional<siginfo_t> info;
  {
    LockGuard guard(thread.process.signals.lock);
    info = take_signal(thread, mask);
  }
  if (!info) return std::nullopt;
  thread.process.timers->taken(*info);
  return record_of(*info);
}

std::int64_t make(Thread& thread, const Args& a, int flags) {
  if ((flags & ~(SFD_CLOEXEC | SFD_NONBLOCK)) || a[2] != sizeof(SignalSet)) return -EINVAL;
  auto set = read_user<SignalSet>(thread.memory(), a[1]);
  if (!set) return -EFAULT;
  Process& process = thread.process;
  int fd = a.i32(0);
  std::shared_ptr<OpenFile> file;
  if (fd != -1) {
    file = process.files.get(fd);
    if (!file) return -EBADF;
    if (file->kind != OpenFile::Kind::Signal) return -EINVAL;
    signal_fd_of(*file).mask = *set & ~kUnblockable;
  } else {
    auto made = make_signal_fd(*set, flags);
    if (!made) return -made.error();
    file = std::move(*made);
    auto installed = process.files.install(file, flags & SFD_CLOEXEC);
    if (!installed) return -installed.error();
    fd = *installed;
    tell_from_now_on(process, file);
  }
  look_again(process.family, *file);
  return fd;
}

std::int64_t sys_signalfd(Thread& thread, const Args& a) { return make(thread, a, 0); }
std::int64_t sys_signalfd4(Thread& thread, const Args& a) { return make(thread, a, a.i32(3)); }

}  // namespace

OrErrno<std::shared_ptr<OpenFile>> make_signal_fd(SignalSet mask, int flags) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return err(errno);
  HostFd reader(ends[0]), writer(ends[1]);
  if ((flags & SFD_NONBLOCK) && ::fcntl(reader.get(), F_SETFL, O_NONBLOCK) != 0) return err(errno);
  auto file = make_file(OpenFile::Kind::Signal, std::move(reader), O_RDWR);
  file->operations = std::make_shared<SignalFd>(mask & ~kUnblockable, std::move(writer));
  return file;
}

void tell_from_now_on(Process& process, const std::shared_ptr<OpenFile>& file) {
  LockGuard guard(process.signals.lock);
  std::erase_if(process.signals.fds, [](const auto& known) { return known.expired(); });
  process.signals.fds.push_back(file);
}

void tell_signal_fds(Process& process, int sig) RAMET_REQUIRES(process.signals.lock) {
  std::erase_if(process.signals.fds, [&](const auto& known) {
    auto file = known.lock();
    if (!file) return true;
    if (!(signal_fd_of(*file).mask & bit_of(sig))) return false;
    if (!process.files.holds(*file)) return true;  // closed here, and open in another process
    raise(*file);
    return false;
  });
}

std::optional<std::int64_t> SignalFd::read(Thread& thread, const OpenFile& file, const UserBuffers& buffers,
                                           std::int64_t offset) {
  if (offset != kCurrentOffset) return -ESPIPE;
  constexpr std::uint64_t kMost = 64;  // at once: the guest chooses the length
  if (buffers.bytes() < kRecord) return buffers.whole() ? -EINVAL : -EFAULT;
  const std::uint64_t room = std::min(buffers.bytes() / kRecord, kMost) * kRecord;
  for (;;) {
    std::uint64_t done = 0;
    bool reached = true;  // as on Linux, a signal that cannot be written is lost, and later ones are not
    while (reached && done < room) {
      const auto record = take(thread, mask);
      if (!record) break;
      reached = buffers.put(done, std::as_bytes(std::span(&*record, 1))).has_value();
      if (reached) done += kRecord;
    }
    look_again(thread.process.family, file);
    if (done > 0) return static_cast<std::int64_t>(done);
    if (!reached) return -EFAULT;
    const int status = ::fcntl(file.host.get(), F_GETFL);
    if (status < 0) return -errno;
    if (status & O_NONBLOCK) return -EAGAIN;
    pollfd wait{.fd = file.host.get(), .events = POLLIN, .revents = 0};
    const std::int64_t r = thread.blocking(SYS_ppoll, reinterpret_cast<std::uint64_t>(&wait), 1);
    if (r < 0) return restartable(r);
  }
}

std::optional<std::int64_t> SignalFd::write(Thread&, const OpenFile&, const UserBuffers&, std::int64_t offset) {
  return offset == kCurrentOffset ? -EINVAL : -ESPIPE;
}

std::span<const Definition> signalfd_calls() {
  static constexpr Definition kCalls[] = {
      {Call::signalfd, sys_signalfd},
      {Call::signalfd4, sys_signalfd4},
  };
  return kCalls;
}

}  // namespace ramet::vmm
