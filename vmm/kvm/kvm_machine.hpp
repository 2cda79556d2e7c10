// The KVM machine for x86-64, on shadow-paging and on nested-paging hosts alike.
#pragma once

#include <expected>
#include <memory>
#include <string>

#include "vmm/error.hpp"
#include "vmm/machine.hpp"

namespace ramet::vmm {

// host_clocks: guest programs reach the host's clocks, if that is possible here; see kvm/host_clock.cpp.
// Errors: device absent, not permitted, not KVM, too old; each says what to do.
std::expected<std::unique_ptr<Machine>, Failure> create_kvm_machine(const std::string& device = "/dev/kvm",
                                                                    bool host_clocks = true);

}  // namespace ramet::vmm
