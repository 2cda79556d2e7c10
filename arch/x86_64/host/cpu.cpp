#include "arch/x86_64/host/cpu.hpp"

#include <cpuid.h>
#include <sys/auxv.h>

#include <algorithm>
#include <cstring>

#include "arch/host_processor.hpp"
#include "arch/x86_64/guest_abi.hpp"
#include "arch/x86_64/vdso.hpp"

namespace ramet::arch::x86_64 {
namespace {

// Components of XSAVE that Linux puts into every program's signal frames; without AMX, for which a program must ask.
constexpr std::uint64_t kComponents = 0x2ff;

std::uint32_t xsave_bytes(std::uint64_t components) {
  std::uint32_t bytes = 576;  // legacy area and header
  for (unsigned i = 2; i < 63; ++i) {
    if ((components >> i & 1) == 0) continue;
    const auto c = cpuid(0xd, i);
    bytes = std::max(bytes, c.eax + c.ebx);
  }
  return bytes;
}

}  // namespace

CpuidAnswer cpuid(std::uint32_t function, std::uint32_t index) {
  // The processor answers leaves beyond the last one with the contents of the last one.
  static const std::uint32_t last = __get_cpuid_max(0, nullptr), last_extended = __get_cpuid_max(0x80000000, nullptr);
  CpuidAnswer a;
  if (function <= (function < 0x80000000 ? last : last_extended))
    __cpuid_count(function, index, a.eax, a.ebx, a.ecx, a.edx);
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

}  // namespace ramet::arch::x86_64

namespace ramet::arch {

const GuestAbi& host_abi() { return x86_64::kGuestAbi; }
std::span<const std::byte> host_vdso_image() { return x86_64::vdso_image(); }

HostProcessor host_processor() {
  const auto host = x86_64::host_cpu();
  HostProcessor p;
  p.hwcap = ::getauxval(AT_HWCAP);
  p.hwcap2 = ::getauxval(AT_HWCAP2);
  p.fp.components = host.xcr0 & x86_64::kComponents;
  p.fp.bytes = p.fp.components ? x86_64::xsave_bytes(p.fp.components) : 0;
  char brand[49] = {};
  for (std::uint32_t leaf = 0; leaf < 3; ++leaf) {
    const auto words = x86_64::cpuid(0x80000002 + leaf);
    std::memcpy(brand + 16 * leaf, &words, 16);
  }
  p.model = brand[0] != 0 ? brand : "unknown";
  auto seen = host.features;
  seen.extended_edx &= ~(1u << 26);  // 1 GiB pages: of no use to programs, and other machines may not have them
  p.features = x86_64::feature_names(seen);
  return p;
}

}  // namespace ramet::arch
