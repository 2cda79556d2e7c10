#include "vmm/process/listener.hpp"

#include <linux/seccomp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <utility>

#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)  // Linux 6.6
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (1UL << 0)
#endif

namespace ramet::vmm::process {

Listener::Listener(int descriptor) : descriptor_(descriptor) {
  // Linux before 6.6 refuses the first call, which asks for wake-ups on the same processor; a descriptor that is no
  // listener refuses both.
  std::uint64_t none = 0;
  if (::ioctl(descriptor_, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP) == 0) return;
  if (::ioctl(descriptor_, SECCOMP_IOCTL_NOTIF_ID_VALID, &none) == 0 || errno == ENOENT) return;
  ::close(std::exchange(descriptor_, -1));
}

Listener::~Listener() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

Listener::Listener(Listener&& other) noexcept { *this = std::move(other); }

Listener& Listener::operator=(Listener&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  std::swap(pending_, other.pending_);
  std::swap(used_, other.used_);
  std::swap(id_, other.id_);
  return *this;
}

Listener::Heard Listener::wait(std::chrono::milliseconds limit) {
  pollfd ready{.fd = descriptor_, .events = POLLIN, .revents = 0};
  if (::poll(&ready, 1, static_cast<int>(limit.count())) != 1) return Heard::Nothing;
  if ((ready.revents & POLLIN) == 0) return Heard::Gone;
  // The kernel's structure may be longer than this one, and has to be zero.
  union {
    seccomp_notif call;
    std::byte room[512];
  } heard;
  static_assert(sizeof heard.call <= sizeof heard.room / 2);
  std::memset(&heard, 0, sizeof heard);
  // It fails if the thread was stopped since, or has ended: then there is nothing to reply to, and it hands over again.
  if (::ioctl(descriptor_, SECCOMP_IOCTL_NOTIF_RECV, &heard.call) != 0) return Heard::Nothing;
  id_ = heard.call.id;
  pending_ = true;
  return Heard::Thread;
}

bool Listener::reply() {
  if (!std::exchange(pending_, false)) return false;
  seccomp_notif_resp reply{.id = id_, .val = 0, .error = 0, .flags = 0};
  used_ = true;
  return ::ioctl(descriptor_, SECCOMP_IOCTL_NOTIF_SEND, &reply) == 0;
}

}  // namespace ramet::vmm::process
