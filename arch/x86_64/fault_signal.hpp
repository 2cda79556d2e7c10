// Which signal Linux sends for an exception of x86-64 user code (arch/x86/kernel/traps.c), and the error
// codes it shows in signal frames.
#pragma once

#include <cstdint>

#include "arch/signal_frame.hpp"
#include "arch/x86_64/user_state.hpp"

namespace ramet::arch::x86_64 {

struct FaultSignal {
  int signal;
  int code;         // si_code
  bool at_pc;       // si_addr is the program counter, else 0
};

inline constexpr unsigned kVectorDivide = 0, kVectorDebug = 1, kVectorProtection = 13, kVectorPageFault = 14,
                          kVectorX87 = 16, kVectorSimd = 19;

// `fp` is used for the two floating-point exceptions only; it may be null for all others.
FaultSignal fault_signal(unsigned vector, const FpState* fp);
constexpr bool fault_needs_fp(unsigned vector) { return vector == kVectorX87 || vector == kVectorSimd; }

// The error code of a page fault in user code.
constexpr std::uint64_t page_fault_error(bool present, bool write, bool execute) {
  return (present ? 1u : 0u) | (write ? 2u : 0u) | 4u | (execute ? 16u : 0u);
}

// See GuestAbi.
void note_fault(FaultRecord&, std::uint64_t trap, std::uint64_t error, std::uint64_t address);

}  // namespace ramet::arch::x86_64
