#include "arch/process_frame.hpp"

#include <linux/audit.h>
#include <signal.h>

#include <algorithm>
#include <cstring>

#include "arch/said.hpp"
#include "arch/x86_64/fault_signal.hpp"
#include "arch/x86_64/host/cpu_state.hpp"
#include "arch/x86_64/signal_frame.hpp"

namespace ramet::arch {

using namespace x86_64;
using said::place;
using said::read;
using said::write;

namespace {

// struct ucontext
constexpr std::uint32_t kStack = 16, kRegisters = 40, kMask = 296, kContextBytes = 304, kInfoBytes = 128;
// In the floating-point area: the kernel's description of it, struct _fpx_sw_bytes, and the header of XSAVE.
constexpr std::uint32_t kHostSoftware = 464, kHostSoftwareBytes = 48, kXstateSize = kHostSoftware + 16,
                        kHostLegacy = 512;

}  // namespace

std::optional<HostFrame> find_host_frame(std::span<const std::byte> said, std::uint64_t base) {
  const auto context = place(read<std::uint64_t>(said, SAID_FRAME), base, kContextBytes, 8);
  const auto info = place(read<std::uint64_t>(said, SAID_INFO), base, kInfoBytes, 8);
  if (!context || !info) return std::nullopt;
  const auto fp_at = read<std::uint64_t>(said, *context + kRegisters + offsetof(SignalContext, fpstate));
  const auto fp = place(fp_at, base, kHostLegacy, 64);
  if (!fp) return std::nullopt;
  const auto size = read<std::uint32_t>(said, *fp + kXstateSize);
  if (size < kHostLegacy || size > RAMET_SAID_SIZE - *fp) return std::nullopt;
  return HostFrame{*context, *info, *fp, std::min<std::uint32_t>(size, sizeof(FpState::area))};
}

HostTrap read_host_trap(std::span<const std::byte> said, const HostFrame& f, int kick_signal) {
  HostTrap t;
  t.signal = static_cast<int>(read<std::uint32_t>(said, SAID_SIGNAL));
  t.code = read<std::int32_t>(said, f.info + offsetof(siginfo_t, si_code));
  const auto context = read<SignalContext>(said, f.context + kRegisters);
  t.trap = static_cast<std::uint32_t>(context.trap);
  t.error = context.error;
  if (t.signal == kick_signal) {
    t.kind = HostTrap::Kind::Kick;
  } else if (t.signal == SIGSYS) {
    const auto architecture = read<std::uint32_t>(said, f.info + offsetof(siginfo_t, si_arch));
    t.kind = architecture == AUDIT_ARCH_X86_64 ? HostTrap::Kind::Syscall : HostTrap::Kind::ForeignSyscall;
    if (t.kind == HostTrap::Kind::ForeignSyscall) t.trap = kVectorProtection, t.error = 0x80 * 8 + 2;
  } else if ((t.signal == SIGSEGV || t.signal == SIGBUS) && t.trap == kVectorPageFault && t.code != SI_KERNEL) {
    // A frame that was not made by a trap shows the trap number and error of an earlier one; such signals have
    // SI_KERNEL.
    t.kind = t.signal == SIGBUS ? HostTrap::Kind::FileFault : HostTrap::Kind::PageFault;
    t.address = context.cr2;
    t.write = t.error & 2;
    t.execute = t.error & 16;
  } else if (t.signal == SIGSEGV || t.signal == SIGBUS || t.signal == SIGILL || t.signal == SIGFPE ||
             t.signal == SIGTRAP) {
    t.kind = HostTrap::Kind::Exception;
    t.address = t.code == SI_KERNEL ? 0 : read<std::uint64_t>(said, f.info + offsetof(siginfo_t, si_addr));
    if (t.trap == kVectorPageFault) t.trap = kVectorProtection, t.error = 0;
  }
  return t;
}

std::optional<HostTrap> fault_of_start(const UserRegs& regs) {
  if (is_canonical(regs[Rip])) return std::nullopt;
  return HostTrap{.kind = HostTrap::Kind::Exception,
                  .signal = SIGSEGV,
                  .code = SI_KERNEL,
                  .address = 0,
                  .trap = kVectorProtection,
                  .error = 0};
}

UserRegs read_host_registers(std::span<const std::byte> said, const HostFrame& f) {
  return restore_registers(read<SignalContext>(said, f.context + kRegisters));
}

void write_host_registers(std::span<std::byte> said, const HostFrame& f, const UserRegs& regs, std::uint64_t base) {
  const auto now = read<SignalContext>(said, f.context + kRegisters);
  SignalContext next = save_registers(regs);
  next.cs = kUserCs;
  next.ss = kUserSs;
  next.fs = now.fs;
  next.gs = now.gs;
  next.rflags = sanitize_flags(regs[Rflags]);
  next.fpstate = base + f.fp;
  write(said, f.context + kRegisters, next);
  write(said, f.context + kMask, std::uint64_t{0});
  // The signal stack, which disarms itself (SS_AUTODISARM), is armed again by rt_sigreturn.
  write(said, f.context + kStack, base + RAMET_SIGNAL_STACK);
  write(said, f.context + kStack + 8, std::uint64_t{1u << 31});
  write(said, f.context + kStack + 16, std::uint64_t{RAMET_SAID_SIZE - RAMET_SIGNAL_STACK});
}

void read_host_fp(std::span<const std::byte> said, const HostFrame& f, FpState& fp) {
  fp = {};
  std::memcpy(fp.area.data(), said.data() + f.fp, f.fp_bytes);
  std::memset(fp.area.data() + kHostSoftware, 0, kHostSoftwareBytes);
}

void reset_host_fp(FpState& fp) { reset(fp); }

void write_host_fp(std::span<std::byte> said, const HostFrame& f, const FpState& fp) {
  std::memcpy(said.data() + f.fp, fp.area.data(), kHostSoftware);
  std::memcpy(said.data() + f.fp + kHostLegacy, fp.area.data() + kHostLegacy, f.fp_bytes - kHostLegacy);
}

}  // namespace ramet::arch
