// User-mode state of one arm64 thread: the names of its words.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "arch/user_state.hpp"

namespace ramet::arch::arm64 {

// The words of UserRegs; X0 + n is Xn. In the order of Linux's struct user_pt_regs.
enum Register : std::uint8_t { X0, X8 = 8, Fp = 29, Lr = 30, Sp, Pc, Pstate };
inline constexpr std::size_t kRegisterCount = Pstate + 1;
static_assert(kRegisterCount == UserRegs::kWords);

inline constexpr std::uint64_t kStepFlag = 1u << 21;  // PSTATE.SS
inline constexpr unsigned kSyscallLength = 4;         // bytes of SVC

// FpState is Linux's struct user_fpsimd_state.
struct FpSimd {
  std::array<std::array<std::byte, 16>, 32> v;  // V0 to V31
  std::uint32_t fpsr, fpcr;
  std::array<std::uint32_t, 2> reserved;
};
static_assert(offsetof(FpSimd, fpsr) == 512 && offsetof(FpSimd, fpcr) == 516 && sizeof(FpSimd) == 528);

// The part of FpState that every arm64 processor has.
inline constexpr FpFormat kFpFormat{.components = 0, .bytes = sizeof(FpSimd)};

// Sets the state as after execve(2): no flags, no traps, rounding to the nearest.
inline void reset(FpState& fp) { fp.area.fill(std::byte{0}); }

// PSTATE in the layout of signal frames and SPSR_EL1.
namespace pstate {
inline constexpr std::uint64_t kMode = 0x1f;                    // 0: 64-bit user code
inline constexpr std::uint64_t kMasks = 0xf << 6;               // exceptions that are masked: D, A, I, F
inline constexpr std::uint64_t kBranchType = 3 << 10;           // how the next instruction was reached, for BTI
inline constexpr std::uint64_t kSpeculativeStoreBypass = 1 << 12, kIndependentTiming = 1 << 24,
                               kTagCheckOverride = 1 << 25;
inline constexpr std::uint64_t kConditions = 0xf0000000;        // N, Z, C and V
}  // namespace pstate

// The flags that user code may set by a signal frame, as far as the processor has them.
inline constexpr std::uint64_t kUserFlags = pstate::kConditions | pstate::kTagCheckOverride |
                                            pstate::kIndependentTiming | pstate::kSpeculativeStoreBypass |
                                            pstate::kBranchType;
inline constexpr std::uint64_t kFixedFlags = 0;

}  // namespace ramet::arch::arm64
