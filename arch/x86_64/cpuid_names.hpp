// Feature bits of CPUID by the names that /proc/cpuinfo gives them.
#pragma once

#include <cstdint>
#include <string>

namespace ramet::arch::x86_64 {

// The registers of CPUID that hold features of interest to user code.
struct CpuidFeatures {
  std::uint32_t leaf1_edx = 0, leaf1_ecx = 0;
  std::uint32_t leaf7_ebx = 0, leaf7_ecx = 0, leaf7_edx = 0;
  std::uint32_t extended_edx = 0, extended_ecx = 0;  // 0x80000001
  std::uint32_t xsave_eax = 0;                       // 0xd, subleaf 1
};

// Separated by single spaces.
std::string feature_names(const CpuidFeatures&);

}  // namespace ramet::arch::x86_64
