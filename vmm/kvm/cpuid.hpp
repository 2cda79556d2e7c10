// CPUID of the guest: what KVM supports, less what our guests have no kernel for.
#pragma once

#include <cstdint>
#include <expected>
#include <vector>

#include "vmm/kvm/device.hpp"
#include "vmm/machine.hpp"

namespace ramet::vmm::kvm {

struct CpuModel {
  std::vector<kvm_cpuid_entry2> leaves;
  Machine::Features features;
  std::uint64_t cr4 = 0;
  bool fsgsbase = false;
  bool intel = false;

  // Asked from KVM once a process and kept: it is the same for every VM, and not cheap. Errors: KVM refuses.
  static std::expected<const CpuModel*, Failure> get(const Device&);
};

// Gives the vCPU the model with its own APIC id.
Status set_cpuid(const Fd& vcpu, const CpuModel&, unsigned apic_id);

}  // namespace ramet::vmm::kvm
