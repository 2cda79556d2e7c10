// KVM's exit reasons in words: those that our guests must not cause.
#pragma once

#include <string>

#include "vmm/kvm/ioctl.hpp"

namespace ramet::vmm::kvm {

std::string describe_exit(const kvm_run&);
// After KVM_RUN failed with EFAULT.
std::string describe_host_fault(const kvm_run&);

}  // namespace ramet::vmm::kvm
