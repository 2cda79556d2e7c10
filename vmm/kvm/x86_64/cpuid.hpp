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
  std::uint64_t cr4 = 0;         // what ring 0 may switch on
  bool intel = false, giant_pages = false;
  // The host has no hardware virtualization: KVM runs ring 3 natively, on shadow tables. What it says about
  // CPUID then holds for ring 0 only; user code asks the processor itself, and `features` are what it sees.
  bool native_ring3 = false;

  // Asked from KVM once a process and kept: it is the same for every VM, and not cheap. Errors: KVM refuses.
  static std::expected<const CpuModel*, Failure> get(const Device&);
};

// Gives the vCPU the model with its own APIC id.
Status set_cpuid(const HostFd& vcpu, const CpuModel&, unsigned apic_id);

}  // namespace ramet::vmm::kvm
