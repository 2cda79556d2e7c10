#include "vmm/host_features.hpp"

#include <sys/auxv.h>

#include <algorithm>
#include <cstring>

#include "arch/x86_64/host/cpu.hpp"

namespace ramet::vmm {
namespace {

// Components of XSAVE that the kernel puts into every program's signal frames; those that a program must ask for (AMX)
// are not among them.
constexpr std::uint64_t kComponents = 0x2ff;

std::uint32_t xsave_bytes(std::uint64_t components) {
  std::uint32_t bytes = 576;  // legacy area and header
  for (unsigned i = 2; i < 63; ++i) {
    if ((components >> i & 1) == 0) continue;
    const auto c = arch::x86_64::cpuid(0xd, i);
    bytes = std::max(bytes, c.eax + c.ebx);
  }
  return bytes;
}

Machine::Features look() {
  const auto host = arch::x86_64::host_cpu();
  Machine::Features f;
  f.hwcap = ::getauxval(AT_HWCAP);
  f.hwcap2 = ::getauxval(AT_HWCAP2);
  f.fp.components = host.xcr0 & kComponents;
  f.fp.bytes = f.fp.components ? xsave_bytes(f.fp.components) : 0;
  char brand[49] = {};
  for (std::uint32_t leaf = 0; leaf < 3; ++leaf) {
    const auto words = arch::x86_64::cpuid(0x80000002 + leaf);
    std::memcpy(brand + 16 * leaf, &words, 16);
  }
  f.model_name = brand[0] != 0 ? brand : "unknown";
  auto seen = host.features;
  seen.extended_edx &= ~(1u << 26);  // 1 GiB pages: no program sees them, and another machine may have none
  f.flags = arch::x86_64::feature_names(seen);
  f.physical_bits = 46;
  // Nobody sets accessed and dirty bits while guest code runs: entries have them from the start.
  f.dear_accessed_dirty = true;
  return f;
}

}  // namespace

const Machine::Features& host_features() {
  static const Machine::Features features = look();
  return features;
}

}  // namespace ramet::vmm
