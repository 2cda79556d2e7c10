// Exceptions to signals: see fault_signal.hpp.
#include "arch/x86_64/fault_signal.hpp"

#include <signal.h>

#include <cstring>

namespace ramet::arch::x86_64 {
namespace {

// Which unmasked floating-point exception it was. Both units use the same bit order:
// invalid, denormal, zero-divide, overflow, underflow, precision.
int fp_code(unsigned unmasked) {
  if (unmasked & 0x01) return FPE_FLTINV;
  if (unmasked & 0x04) return FPE_FLTDIV;
  if (unmasked & 0x08) return FPE_FLTOVF;
  if (unmasked & 0x12) return FPE_FLTUND;  // denormals are reported as underflow
  if (unmasked & 0x20) return FPE_FLTRES;
  return FPE_FLTINV;
}

template <class T>
T field(const FpState& fp, std::size_t offset) {
  T value;
  std::memcpy(&value, fp.area.data() + offset, sizeof value);
  return value;
}

}  // namespace

FaultSignal fault_signal(unsigned vector, const FpState* fp) {
  switch (vector) {
    case kVectorDivide: return {SIGFPE, FPE_INTDIV, true};
    case kVectorDebug: return {SIGTRAP, TRAP_TRACE, true};
    case 3: return {SIGTRAP, SI_KERNEL, false};         // INT3
    case 6: return {SIGILL, ILL_ILLOPN, true};          // undefined opcode
    case 11: return {SIGBUS, SI_KERNEL, false};         // segment not present
    case 12: return {SIGBUS, SI_KERNEL, false};         // stack segment: a non-canonical stack address
    case 17: return {SIGBUS, BUS_ADRALN, false};        // alignment check
    case kVectorX87:                                    // FCW at 0, FSW at 2 of the FXSAVE area
      return {SIGFPE, fp ? fp_code(field<std::uint16_t>(*fp, 2) & ~field<std::uint16_t>(*fp, 0) & 0x3fu) : FPE_FLTINV,
              true};
    case kVectorSimd: {                                 // MXCSR: flags in bits 0-5, masks in bits 7-12
      unsigned mxcsr = fp ? field<std::uint32_t>(*fp, 24) : 0;
      return {SIGFPE, fp_code(mxcsr & ~(mxcsr >> 7) & 0x3fu), true};
    }
    default: return {SIGSEGV, SI_KERNEL, false};        // protection, overflow, bounds and the rest
  }
}

void note_fault(FaultRecord& last, std::uint64_t trap, std::uint64_t error, std::uint64_t address) {
  last.trap = trap;
  last.error = error;
  if (trap == kVectorPageFault) last.address = address;  // as CR2 does
}

}  // namespace ramet::arch::x86_64
