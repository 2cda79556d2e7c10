// The trap stub of arm64 guests as the VMM sees it: its code, its entry points, the vCPU's page.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "arch/arm64/host/stub_layout.h"
#include "arch/arm64/user_state.hpp"

extern "C" {
extern const std::byte ramet_stub_begin[], ramet_stub_resume[], ramet_stub_end[];
}

namespace ramet::arch::arm64::stub {

inline std::span<const std::byte> code() { return {ramet_stub_begin, ramet_stub_end}; }
// Offset from the start of the stub.
inline std::uint64_t resume() { return static_cast<std::uint64_t>(ramet_stub_resume - ramet_stub_begin); }

// The beginning of the page that SP_EL1 points to.
struct Context {
  UserRegs regs;              // Pstate: SPSR_EL1
  std::uint64_t esr, far;     // of the trap
  std::uint64_t thread;       // TPIDR_EL0
  std::uint64_t command;      // bits
  std::uint64_t ranges;       // of a flush; 0: everything
  struct Range {
    std::uint64_t page, pages;
  } range[STUB_MOST_RANGES];
  std::uint64_t unused[9];
  FpSimd fp;
};
static_assert(offsetof(Context, regs) == STUB_REGS && offsetof(Context, esr) == STUB_ESR &&
              offsetof(Context, far) == STUB_FAR);
static_assert(offsetof(Context, thread) == STUB_THREAD && offsetof(Context, command) == STUB_COMMAND);
static_assert(offsetof(Context, ranges) == STUB_RANGES && offsetof(Context, range) == STUB_RANGE &&
              offsetof(Context, fp) == STUB_FP);

inline constexpr std::uint64_t kFlush = 1u << STUB_DO_FLUSH, kLoadFp = 1u << STUB_DO_LOAD_FP,
                               kSaveFp = 1u << STUB_DO_SAVE_FP, kReturn = 1u << STUB_DO_RETURN;

}  // namespace ramet::arch::arm64::stub
