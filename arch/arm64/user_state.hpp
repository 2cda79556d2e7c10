// User-mode state of one arm64 thread: the names of its words.
#pragma once

#include <cstddef>
#include <cstdint>

#include "arch/user_state.hpp"

namespace ramet::arch::arm64 {

// The words of UserRegs; X0 + n is Xn. In the order of Linux's struct user_pt_regs.
enum Register : std::uint8_t { X0, X8 = 8, Lr = 30, Sp, Pc, Pstate };
inline constexpr std::size_t kRegisterCount = Pstate + 1;
static_assert(kRegisterCount == UserRegs::kWords);

inline constexpr std::uint64_t kStepFlag = 1u << 21;  // PSTATE.SS
inline constexpr unsigned kSyscallLength = 4;         // bytes of SVC

// The flags that user code may set by a signal frame: N, Z, C and V.
inline constexpr std::uint64_t kUserFlags = 0xf0000000, kFixedFlags = 0;

}  // namespace ramet::arch::arm64
