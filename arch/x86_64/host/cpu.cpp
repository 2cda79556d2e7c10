#include "arch/x86_64/host/cpu.hpp"

#include <cpuid.h>

namespace ramet::arch::x86_64 {

CpuidAnswer cpuid(std::uint32_t function, std::uint32_t index) {
  // Leaves beyond the last one answer with the last one's contents.
  static const std::uint32_t last = __get_cpuid_max(0, nullptr), last_extended = __get_cpuid_max(0x80000000, nullptr);
  CpuidAnswer a;
  if (function <= (function < 0x80000000 ? last : last_extended)) __cpuid_count(function, index, a.eax, a.ebx, a.ecx, a.edx);
  return a;
}

HostCpu host_cpu() {
  HostCpu host;
  CpuidFeatures& f = host.features;
  const CpuidAnswer one = cpuid(1), seven = cpuid(7), extended = cpuid(0x80000001);
  f.leaf1_ecx = one.ecx, f.leaf1_edx = one.edx;
  f.leaf7_ebx = seven.ebx, f.leaf7_ecx = seven.ecx, f.leaf7_edx = seven.edx;
  f.xsave_eax = cpuid(0xd, 1).eax;
  f.extended_ecx = extended.ecx, f.extended_edx = extended.edx;
  host.virtualization = (f.leaf1_ecx >> 5 & 1) != 0 || (f.extended_ecx >> 2 & 1) != 0;
  if ((f.leaf1_ecx >> 27 & 1) != 0) {  // OSXSAVE
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    host.xcr0 = std::uint64_t(high) << 32 | low;
  }
  return host;
}

std::string hypervisor_signature() {
  unsigned a = 0, c = 0, d = 0, words[3] = {};
  if (__get_cpuid(1, &a, &words[0], &c, &d) == 0 || (c >> 31) == 0) return "";
  __cpuid(0x40000000, a, words[0], words[1], words[2]);
  std::string text(reinterpret_cast<const char*>(words), sizeof words);
  return text.substr(0, text.find('\0'));
}

}  // namespace ramet::arch::x86_64
