// Creates this host's KVM machine; on x86-64 the same one for shadow paging and nested paging.
#pragma once

#include <expected>
#include <memory>
#include <string>

#include "vmm/error.hpp"
#include "vmm/machine.hpp"

namespace ramet::vmm {

// `host_clocks`: guest programs read the host's clocks where possible, see x86_64/host_clock.cpp; ignored on arm64.
// Errors: device absent, not permitted, not KVM, too old; each says what to do.
std::expected<std::unique_ptr<Machine>, Failure> create_kvm_machine(const std::string& device = "/dev/kvm",
                                                                    bool host_clocks = true);

}  // namespace ramet::vmm
