// The host probe's questions to KVM (vmm/probe.hpp).
#pragma once

#include <string>

#include "vmm/error.hpp"
#include "vmm/probe.hpp"

namespace ramet::vmm::kvm {

class MicroGuest;

// Fills in what is KVM's. Runs a micro-guest.
void probe_kvm(HostFacts&, const std::string& device);

// Each twin's part: what this guest shows. Errors: it does not run.
Status probe_with(HostFacts&, MicroGuest&);

}  // namespace ramet::vmm::kvm
