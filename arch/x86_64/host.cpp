#include "arch/x86_64/host.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace ramet::arch::x86_64 {

#if defined(__x86_64__)

HostCpu host_cpu() {
  HostCpu host;
  CpuidFeatures& f = host.features;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) != 0) f.leaf1_ecx = c, f.leaf1_edx = d;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) != 0) f.leaf7_ebx = b, f.leaf7_ecx = c, f.leaf7_edx = d;
  if (__get_cpuid_count(0xd, 1, &a, &b, &c, &d) != 0) f.xsave_eax = a;
  if (__get_cpuid(0x80000001, &a, &b, &c, &d) != 0) f.extended_ecx = c, f.extended_edx = d;
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

#else

std::string hypervisor_signature() { return ""; }
HostCpu host_cpu() { return {}; }

#endif

}  // namespace ramet::arch::x86_64
