// Exceptions to signals: see fault_signal.hpp.
#include "arch/arm64/fault_signal.hpp"

#include <signal.h>

namespace ramet::arch::arm64 {
namespace {

constexpr std::uint64_t kUserEnd = 1ull << 39;  // where the kernel's addresses begin, if addresses have 39 bits

// For a floating-point exception that the program enabled: by the lowest flag that is set.
int fp_code(std::uint64_t esr) {
  constexpr std::uint64_t kFlagsAreValid = 1u << 23;
  if (!(esr & kFlagsAreValid)) return FPE_FLTUNK;
  if (esr & 1 << 0) return FPE_FLTINV;
  if (esr & 1 << 1) return FPE_FLTDIV;
  if (esr & 1 << 2) return FPE_FLTOVF;
  if (esr & 1 << 3) return FPE_FLTUND;
  if (esr & 1 << 4) return FPE_FLTRES;
  return FPE_FLTUNK;
}

}  // namespace

FaultSignal fault_signal(std::uint64_t esr) {
  using enum FaultSignal::Address;
  switch (class_of(esr)) {
    case kClassBreakpoint: return {SIGTRAP, TRAP_BRKPT, Pc};
    case kClassStep: return {SIGTRAP, TRAP_TRACE, Pc};
    case kClassPcAlignment: return {SIGBUS, BUS_ADRALN, Accessed};
    case kClassSpAlignment: return {SIGBUS, BUS_ADRALN, Sp};
    case kClassFloat: return {SIGFPE, fp_code(esr), Pc};
    case kClassFetch:
    case kClassData:
      if ((esr & kFaultStatus) == kMisaligned) return {SIGBUS, BUS_ADRALN, Accessed};
      return {SIGBUS, BUS_OBJERR, Accessed};  // synchronous external abort
    default: return {SIGILL, ILL_ILLOPC, Pc};
  }
}

void note_fault(FaultRecord& last, std::uint64_t trap, std::uint64_t error, std::uint64_t address) {
  switch (trap) {
    case kClassBreakpoint:
    case kClassStep:
    case kClassFloat: return;  // Linux does not record these
    case kClassFetch:
    case kClassData:
      // Linux does not reveal what is mapped at the kernel's addresses.
      if (address >= kUserEnd) error = (error & ~kFaultStatus) | kBeyondTables;
      last = {.trap = trap, .error = error, .address = address};
      return;
    case kClassUnknown:
    case kClassSystem: last = {.trap = trap, .error = 0, .address = 0}; return;
    default: last = {.trap = trap, .error = error, .address = 0};
  }
}

}  // namespace ramet::arch::arm64
