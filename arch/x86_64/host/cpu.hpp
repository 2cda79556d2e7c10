// The processor that this program itself runs on.
#pragma once

#include <cstdint>

#include "arch/x86_64/cpuid_names.hpp"

namespace ramet::arch::x86_64 {

struct HostCpu {
  // The processor has VMX or SVM. A KVM that works without either runs guests' ring 3 directly on this processor, on
  // shadow page tables, without intercepting CPUID and XGETBV of user code: a guest sees this processor's features.
  bool virtualization = false;
  CpuidFeatures features;
  std::uint64_t xcr0 = 0;      // 0: no XSAVE
};

HostCpu host_cpu();

// Executes CPUID; zeroes for a leaf that the processor does not have. Under a hypervisor each call costs microseconds.
struct CpuidAnswer {
  std::uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};
CpuidAnswer cpuid(std::uint32_t function, std::uint32_t index = 0);

}  // namespace ramet::arch::x86_64
