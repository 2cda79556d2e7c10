// KVM's ioctls as the kernel numbers them. Some kernel headers give structures that end in a flexible
// array another size in C++ than in C, and the size is part of the number: those are spelled out here.
#pragma once

#include <cerrno>
#include <cstdint>

#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace ramet::vmm::kvm {

struct ListHeader {
  std::uint32_t count = 0, pad = 0;
};
struct XsaveArea {
  std::uint32_t region[1024];
};
inline constexpr unsigned long kGetSupportedCpuid = _IOWR(KVMIO, 0x05, ListHeader);
inline constexpr unsigned long kSetCpuid2 = _IOW(KVMIO, 0x90, ListHeader);
inline constexpr unsigned long kGetMsrs = _IOWR(KVMIO, 0x88, ListHeader);
inline constexpr unsigned long kSetMsrs = _IOW(KVMIO, 0x89, ListHeader);
inline constexpr unsigned long kGetXsave = _IOR(KVMIO, 0xa4, XsaveArea);
inline constexpr unsigned long kSetXsave = _IOW(KVMIO, 0xa5, XsaveArea);

template <unsigned N>
struct MsrList {
  ListHeader header{.count = N, .pad = 0};
  kvm_msr_entry entries[N]{};
};

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
