// The processor that this program itself runs on.
#pragma once

#include <cstdint>
#include <string>

#include "arch/x86_64/cpuid_names.hpp"

namespace ramet::arch::x86_64 {

struct HostCpu {
  // It has VMX or SVM. A KVM that works without either runs guests' ring 3 directly on this processor, on
  // shadow page tables, and CPUID and XGETBV of user code are not intercepted: a guest sees what is below.
  bool virtualization = false;
  CpuidFeatures features;
  std::uint64_t xcr0 = 0;      // 0: no XSAVE
};

HostCpu host_cpu();

// What the processor answers; zeroes for a leaf it has not. Under a hypervisor each call costs microseconds.
struct CpuidAnswer {
  std::uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};
CpuidAnswer cpuid(std::uint32_t function, std::uint32_t index = 0);

// What the hypervisor below calls itself ("KVMKVMKVM", "TCGTCGTCGTCG" for QEMU's emulator), empty if none.
std::string hypervisor_signature();

}  // namespace ramet::arch::x86_64
