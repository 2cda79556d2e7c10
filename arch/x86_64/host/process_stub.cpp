#include "arch/process_stub.hpp"

#include <linux/audit.h>
#include <sys/auxv.h>
#include <sys/syscall.h>

#include "arch/x86_64/user_state.hpp"

namespace ramet::arch::process_stub {

static_assert(x86_64::kUserEnd == RAMET_USER_END);
static_assert(x86_64::FsBase == 0 && x86_64::GsBase == 1);

constexpr std::uint32_t kSetGs = 0x1001, kSetFs = 0x1002, kMapVdso64 = 0x2003;  // of arch_prctl(2)

constinit const std::uint32_t kAuditArchitecture = AUDIT_ARCH_X86_64;
constinit const BaseCall kBaseCall{.number = SYS_arch_prctl, .codes = {kSetFs, kSetGs}, .by_kernel = true};
constinit const std::optional<NamedCall> kMapVdso{
    {"a vDSO (arch_prctl)", SYS_arch_prctl, {kMapVdso64, RAMET_HOST_VDSO}}};

std::uint64_t address_end() { return RAMET_TOP; }

bool reads_bases() {
  constexpr unsigned long kFsgsbase = 2;  // HWCAP2_FSGSBASE
  return (::getauxval(AT_HWCAP2) & kFsgsbase) != 0;
}

std::vector<NamedCall> first_calls() { return {}; }

}  // namespace ramet::arch::process_stub
