#include "arch/process_stub.hpp"

#include <linux/audit.h>
#include <linux/prctl.h>
#include <sys/auxv.h>
#include <sys/syscall.h>

#include "arch/arm64/guest_abi.hpp"
#include "arch/arm64/hwcap_names.hpp"

namespace ramet::arch::process_stub {

constinit const std::uint32_t kAuditArchitecture = AUDIT_ARCH_AARCH64;
constinit const BaseCall kBaseCall{.number = RAMET_SET_BASE, .codes = {}, .by_kernel = false};
constinit const std::optional<NamedCall> kMapVdso = std::nullopt;

// 39 bits or 48, by the address of data that the kernel put onto this program's stack, the highest mapping. The kernel
// gives wider addresses only to programs that ask for them.
std::uint64_t address_end() { return (::getauxval(AT_RANDOM) >> 39) != 0 ? RAMET_TOP : 1ull << 39; }

bool reads_bases() { return true; }

// Each process has its own keys for signing return addresses, but a guest's return addresses pass to other processes by
// forks and snapshots. With the keys disabled, signing leaves them as they are.
std::vector<NamedCall> first_calls() {
  constexpr std::uint64_t kKeys = PR_PAC_APIAKEY | PR_PAC_APIBKEY | PR_PAC_APDAKEY | PR_PAC_APDBKEY;
  if ((::getauxval(AT_HWCAP) & arm64::hwcap("paca")) == 0) return {};
  return {{"prctl(PR_PAC_SET_ENABLED_KEYS)", SYS_prctl, {PR_PAC_SET_ENABLED_KEYS, kKeys, 0, 0, 0}}};
}

}  // namespace ramet::arch::process_stub
