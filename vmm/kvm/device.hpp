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

// Advice where there is no KVM; each twin's probe.cpp has its own.
extern const std::string_view kHowToHaveKvm;

// For open(): checks the answer to KVM_GET_API_VERSION, or -errno.
Status check_api_version(const std::string& path, int version_or_error);

}  // namespace ramet::vmm::kvm
