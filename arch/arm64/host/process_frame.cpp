#include "arch/process_frame.hpp"

#include <linux/audit.h>
#include <signal.h>

#include <cstring>

#include "arch/arm64/fault_signal.hpp"
#include "arch/arm64/signal_frame.hpp"
#include "arch/said.hpp"

namespace ramet::arch {

using namespace arm64;
using said::place;
using said::read;
using said::write;

namespace {

// Offsets: kContext in SignalFrame, the others from there, which is where HostFrame::context points.
constexpr std::uint32_t kContext = offsetof(SignalFrame, uc_flags);
constexpr std::uint32_t kMachine = offsetof(SignalFrame, context) - kContext;
constexpr std::uint32_t kRegisters = kMachine + offsetof(SignalContext, regs);
constexpr std::uint32_t kRecords = kMachine + offsetof(SignalContext, records);

// The frame's record with that magic number and size, as an offset into the said area; nullopt: there is none.
std::optional<std::uint32_t> find_record(std::span<const std::byte> said, std::uint32_t context, std::uint32_t magic,
                                         std::uint32_t bytes) {
  const std::uint32_t begin = context + kRecords, end = begin + SignalContext::kRecordBytes;
  for (std::uint32_t at = begin; end - at >= sizeof(RecordHead);) {
    const auto head = read<RecordHead>(said, at);
    if (head.magic == 0 || head.size < sizeof head || head.size % 8 != 0 || head.size > end - at) return std::nullopt;
    if (head.magic == magic) return head.size == bytes ? std::optional(at) : std::nullopt;
    at += head.size;
  }
  return std::nullopt;
}

// ESR_EL1 of the frame's fault; 0 if the kernel gives none. After traps other than faults it may be an earlier one's.
std::uint64_t read_esr(std::span<const std::byte> said, const HostFrame& f) {
  const auto record = find_record(said, f.context, EsrRecord::kMagic, sizeof(EsrRecord));
  return record ? read<std::uint64_t>(said, *record + offsetof(EsrRecord, esr)) : 0;
}

bool is_abort(std::uint64_t esr) { return class_of(esr) == kClassFetch || class_of(esr) == kClassData; }

}  // namespace

std::optional<HostFrame> find_host_frame(std::span<const std::byte> said, std::uint64_t base) {
  const auto frame = place(read<std::uint64_t>(said, SAID_INFO), base, sizeof(SignalFrame), 16);
  if (!frame) return std::nullopt;
  const auto fp = find_record(said, *frame + kContext, FpRecord::kMagic, sizeof(FpRecord));
  if (!fp) return std::nullopt;
  return HostFrame{.context = *frame + kContext, .info = *frame, .fp = *fp, .fp_bytes = sizeof(FpRecord)};
}

HostTrap read_host_trap(std::span<const std::byte> said, const HostFrame& f, int kick_signal) {
  HostTrap t;
  t.signal = static_cast<int>(read<std::uint32_t>(said, SAID_SIGNAL));
  t.code = read<std::int32_t>(said, f.info + offsetof(siginfo_t, si_code));
  t.address = read<std::uint64_t>(said, f.info + offsetof(siginfo_t, si_addr));
  const std::uint64_t esr = read_esr(said, f);
  const auto exception = [&](unsigned exception_class) {
    t.kind = HostTrap::Kind::Exception;
    t.trap = exception_class;
    t.error = class_of(esr) == exception_class && esr != 0 ? esr : esr_of(exception_class);
  };
  if (t.signal == kick_signal) {
    t.kind = HostTrap::Kind::Kick;
    return t;
  }
  switch (t.signal) {
    case SIGSYS: {
      const auto architecture = read<std::uint32_t>(said, f.info + offsetof(siginfo_t, si_arch));
      t.kind = architecture == AUDIT_ARCH_AARCH64 ? HostTrap::Kind::Syscall : HostTrap::Kind::Unknown;
      break;
    }
    case SIGSEGV:
      if (t.code != SEGV_MAPERR && t.code != SEGV_ACCERR) {
        exception(kClassData);
        break;
      }
      // Without ESR_EL1 the fault is of an instruction that the kernel emulates, such as a cache operation: a read.
      t.kind = HostTrap::Kind::PageFault;
      t.error = is_abort(esr) ? esr : page_fault_error(false, false, false);
      t.trap = class_of(t.error);
      t.execute = t.trap == kClassFetch;
      t.write = !t.execute && (t.error & (kWrite | kCacheOperation)) == kWrite;
      break;
    case SIGBUS:
      if (t.code != BUS_ADRALN && is_abort(esr)) {
        t.kind = HostTrap::Kind::FileFault;
        t.error = esr, t.trap = class_of(esr);
      } else {
        exception(class_of(esr) == kClassPcAlignment || class_of(esr) == kClassSpAlignment ? class_of(esr)
                                                                                           : kClassData);
      }
      break;
    case SIGTRAP: exception(t.code == TRAP_TRACE ? kClassStep : kClassBreakpoint); break;
    case SIGFPE: exception(kClassFloat); break;
    case SIGILL: exception(kClassUnknown); break;
    default: break;
  }
  return t;
}

// An invalid program counter faults at the first fetch, as any other address.
std::optional<HostTrap> fault_of_start(const UserRegs&) { return std::nullopt; }

UserRegs read_host_registers(std::span<const std::byte> said, const HostFrame& f) {
  return read<UserRegs>(said, f.context + kRegisters);
}

void write_host_registers(std::span<std::byte> said, const HostFrame& f, const UserRegs& regs, std::uint64_t base) {
  UserRegs next = regs;
  next[Pstate] = (regs[Pstate] & kUserFlags) | kFixedFlags;
  write(said, f.context + kRegisters, next);
  write(said, f.context + offsetof(SignalFrame, mask) - kContext, std::uint64_t{0});
  // The signal stack, which disarms itself (SS_AUTODISARM), is armed again by rt_sigreturn.
  write(said, f.context + offsetof(SignalFrame, stack_sp) - kContext, base + RAMET_SIGNAL_STACK);
  write(said, f.context + offsetof(SignalFrame, stack_flags) - kContext, std::uint32_t{1u << 31});
  write(said, f.context + offsetof(SignalFrame, stack_size) - kContext,
        std::uint64_t{RAMET_SAID_SIZE - RAMET_SIGNAL_STACK});
}

void read_host_fp(std::span<const std::byte> said, const HostFrame& f, FpState& fp) {
  const auto record = read<FpRecord>(said, f.fp);
  const FpSimd state{.v = record.v, .fpsr = record.fpsr, .fpcr = record.fpcr, .reserved = {}};
  fp = {};
  std::memcpy(fp.area.data(), &state, sizeof state);
}

void write_host_fp(std::span<std::byte> said, const HostFrame& f, const FpState& fp) {
  FpSimd state;
  std::memcpy(&state, fp.area.data(), sizeof state);
  write(said, f.fp,
        FpRecord{.head = {FpRecord::kMagic, sizeof(FpRecord)}, .fpsr = state.fpsr, .fpcr = state.fpcr, .v = state.v});
}

void reset_host_fp(FpState& fp) { reset(fp); }

}  // namespace ramet::arch
