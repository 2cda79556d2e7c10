// Which signal Linux sends for an exception of arm64 user code (arch/arm64/kernel/traps.c, debug-monitors.c,
// mm/fault.c), and what signal frames show of it. An exception is described by the word in ESR_EL1:
//
//   31......26  25  24..........................0
//   class       IL  syndrome: for an abort, bit 6 is WnR (a write), bits 5 to 0 the fault status
#pragma once

#include <cstdint>

#include "arch/signal_frame.hpp"

namespace ramet::arch::arm64 {

// Exception classes of 64-bit user code (Arm ARM, ESR_EL1.EC), which are the numbers of Exit::trap and
// FaultRecord::trap.
inline constexpr unsigned kClassUnknown = 0x00,       // an undefined instruction
    kClassSystem = 0x18,        // MSR, MRS or a cache operation that is not for user code
    kClassFetch = 0x20,         // instruction abort
    kClassPcAlignment = 0x22,
                          kClassData = 0x24,          // data abort
    kClassSpAlignment = 0x26,
                          kClassFloat = 0x2c,         // a trapped floating-point exception
    kClassStep = 0x32,          // of one instruction
    kClassBreakpoint = 0x3c;    // BRK

inline constexpr std::uint64_t kWrite = 1u << 6;  // WnR
inline constexpr std::uint64_t kCacheOperation = 1u << 8;  // CM: no load and no store, whatever WnR says
inline constexpr std::uint64_t kFaultStatus = 0x3f;
// Fault statuses: an address beyond the tables, no entry at the last level, an entry there that does not permit the
// access, and an access that must be aligned and is not.
inline constexpr std::uint64_t kBeyondTables = 0x04, kNoEntry = 0x07, kNotAllowed = 0x0f, kMisaligned = 0x21;

constexpr unsigned class_of(std::uint64_t esr) { return static_cast<unsigned>(esr >> 26 & 0x3f); }
// The word for an exception with that class and syndrome, of a 32-bit instruction (IL).
constexpr std::uint64_t esr_of(unsigned exception_class, std::uint64_t syndrome = 0) {
  return std::uint64_t{exception_class} << 26 | 1u << 25 | syndrome;
}

struct FaultSignal {
  int signal;
  int code;                // si_code
  enum class Address : std::uint8_t { Pc, Sp, Accessed } address;  // which one si_addr is
};
// For any exception except SVC and page faults.
FaultSignal fault_signal(std::uint64_t esr);

// ESR_EL1 of a page fault in user code.
constexpr std::uint64_t page_fault_error(bool present, bool write, bool execute) {
  const std::uint64_t status = present ? kNotAllowed : kNoEntry;
  return execute ? esr_of(kClassFetch, status) : esr_of(kClassData, status | (write ? kWrite : 0));
}

// See GuestAbi.
void note_fault(FaultRecord&, std::uint64_t trap, std::uint64_t error, std::uint64_t address);

}  // namespace ramet::arch::arm64
