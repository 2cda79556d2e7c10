// The host probe's questions to KVM (vmm/probe.hpp).
#pragma once

#include <string>

#include "vmm/probe.hpp"

namespace ramet::vmm::kvm {

// Fills in what is KVM's. Runs a micro-guest.
void probe_kvm(HostFacts&, const std::string& device);

}  // namespace ramet::vmm::kvm
