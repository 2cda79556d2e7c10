// Calling KVM.
#pragma once

#include <cerrno>
#include <cstdint>

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include "vmm/host_fd.hpp"

namespace ramet::vmm::kvm {

// -errno on failure. Not for KVM_RUN, whose EINTR means something.
template <class T = int>
int call(const HostFd& fd, unsigned long request, T argument = 0) {
  int r;
  do {
    r = ::ioctl(fd.get(), request, argument);
  } while (r < 0 && errno == EINTR);
  return r < 0 ? -errno : r;
}

}  // namespace ramet::vmm::kvm
