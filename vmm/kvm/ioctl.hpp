// Calling KVM.
#pragma once

#include <cerrno>
#include <cstdint>

#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace ramet::vmm::kvm {

// A file descriptor that closes itself.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& o) noexcept : fd_(o.fd_) { o.fd_ = -1; }
  Fd& operator=(Fd&& o) noexcept {
    if (this != &o) { reset(); fd_ = o.fd_; o.fd_ = -1; }
    return *this;
  }
  ~Fd() { reset(); }
  explicit operator bool() const { return fd_ >= 0; }
  int get() const { return fd_; }
  void reset() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }

 private:
  int fd_ = -1;
};

// -errno on failure. Not for KVM_RUN, whose EINTR means something.
template <class T = int>
int call(const Fd& fd, unsigned long request, T argument = 0) {
  int r;
  do {
    r = ::ioctl(fd.get(), request, argument);
  } while (r < 0 && errno == EINTR);
  return r < 0 ? -errno : r;
}

}  // namespace ramet::vmm::kvm
