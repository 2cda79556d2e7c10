// The host's processor, as programs see it.
#include <sys/auxv.h>

#include <cstdio>

#include "arch/arm64/guest_abi.hpp"
#include "arch/arm64/hwcap_names.hpp"
#include "arch/arm64/user_state.hpp"
#include "arch/arm64/vdso.hpp"
#include "arch/host_processor.hpp"

namespace ramet::arch {
namespace {

// Clears the bits of features that guests do not see: FpState has no room for their registers (SVE, SME), or their
// state belongs to the host process (pointer-authentication keys, memory tags).
template <std::size_t N>
std::uint64_t without_own_state(std::uint64_t bits, const std::array<std::string_view, N>& names) {
  for (std::size_t bit = 0; bit < N; ++bit)
    for (const std::string_view state : {"sve", "sme", "mte", "pac"})
      if (names[bit].starts_with(state)) bits &= ~(1ull << bit);
  return N < 64 ? bits & ((1ull << N) - 1) : bits;
}

// Of the processor that this thread is on. Linux emulates the read of MIDR_EL1 for user code if it reports "cpuid".
std::string model() {
  if ((::getauxval(AT_HWCAP) & arm64::hwcap("cpuid")) == 0) return "unknown";
  std::uint64_t midr;
  asm("mrs %0, midr_el1" : "=r"(midr));
  std::array<char, 48> text;
  std::snprintf(text.data(), text.size(), "arm64, implementer %#x, part %#x", unsigned(midr >> 24 & 0xff),
                unsigned(midr >> 4 & 0xfff));
  return text.data();
}

}  // namespace

const GuestAbi& host_abi() { return arm64::kGuestAbi; }
std::span<const std::byte> host_vdso_image() { return arm64::vdso_image(); }

HostProcessor host_processor() {
  HostProcessor p;
  p.fp = arm64::kFpFormat;
  p.hwcap = without_own_state(::getauxval(AT_HWCAP), arm64::kHwcapNames);
  p.hwcap2 = without_own_state(::getauxval(AT_HWCAP2), arm64::kHwcap2Names);
  p.model = model();
  p.features = arm64::feature_names(p.hwcap, p.hwcap2);
  return p;
}

}  // namespace ramet::arch
