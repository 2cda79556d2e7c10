// /dev/kvm: opening it, and what it says about itself.
#pragma once

#include <cstddef>
#include <expected>
#include <string>
#include <string_view>

#include "vmm/error.hpp"
#include "vmm/kvm/ioctl.hpp"

namespace ramet::vmm::kvm {

struct Device {
  HostFd fd;
  std::size_t run_size = 0;  // bytes of a vCPU's kvm_run mapping

  // Errors: absent, not permitted, not KVM, too old; each says what to do.
  static std::expected<Device, Failure> open(const std::string& path);
  // Value of a capability, 0 if unknown.
  int capability(int which) const;
};

// What to do on a host of this kind that has no KVM; in its probe.cpp.
extern const std::string_view kHowToHaveKvm;

// What open() says about the answer to KVM_GET_API_VERSION.
Status check_api_version(const std::string& path, int version_or_error);

}  // namespace ramet::vmm::kvm
