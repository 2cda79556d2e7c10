// The state in which the CPU of a guest without a kernel starts: control registers, descriptor tables, task segment.
// Formats only; the VMM loads them into a CPU.
#pragma once

#include <cstddef>
#include <cstdint>

#include "arch/x86_64/user_state.hpp"

namespace ramet::arch::x86_64 {

// Selectors, besides those of user code. There is no 32-bit code segment, so that user code cannot leave 64-bit mode.
inline constexpr std::uint16_t kKernelCs = 0x08, kKernelSs = 0x10, kTss = 0x38;

inline constexpr std::uint64_t kCr0 = 0x80050033;   // PG AM WP NE ET MP PE
inline constexpr std::uint64_t kEfer = 0xd01;       // NXE LMA LME SCE

namespace cr4 {
inline constexpr std::uint64_t kPae = 1u << 5, kOsfxsr = 1u << 9, kOsxmmexcpt = 1u << 10, kUmip = 1u << 11,
                               kFsgsbase = 1u << 16, kOsxsave = 1u << 18, kSmep = 1u << 20;
inline constexpr std::uint64_t kBase = kPae | kOsfxsr | kOsxmmexcpt;
}  // namespace cr4

// x87, SSE, AVX and AVX-512: what FpState has room for in the standard layout.
inline constexpr std::uint64_t kXcr0 = 0xe7;

// Model-specific registers of SYSCALL.
namespace msr {
inline constexpr std::uint32_t kStar = 0xc0000081, kLstar = 0xc0000082, kSfmask = 0xc0000084, kFsBase = 0xc0000100,
                               kGsBase = 0xc0000101;
// SYSCALL loads CS=kKernelCs, SS=kKernelSs. SYSRET is not used; its base is the one of kUserCs.
inline constexpr std::uint64_t kStarValue = std::uint64_t(kKernelCs) << 32 | std::uint64_t(kUserCs - 0x10) << 48;
inline constexpr std::uint64_t kSfmaskValue = 0x257fd5;  // all flags of user code but the reserved ones
}  // namespace msr

// --- the page of the stub (arch/trap_stub.hpp): code from offset 0, then IDT and GDT, which the CPU only reads ---
inline constexpr std::uint64_t kIdtOffset = 0xc00, kGdtOffset = 0xf00;
inline constexpr std::uint16_t kIdtLimit = 32 * 16 - 1, kGdtLimit = 0x38 - 1;

// --- the page of one vCPU: task segment from offset 0, stack from the end down ---
inline constexpr std::uint16_t kTssLimit = 0x67;  // no I/O bitmap: user code reaches no port
// Every trap starts with an empty stack.

// The frame that the CPU pushes for a trap and that IRETQ pops.
struct TrapFrame {
  std::uint64_t rip, cs, rflags, rsp, ss;
};
static_assert(sizeof(TrapFrame) == 40);

// Exceptions that push an error code: #DF #TS #NP #SS #GP #PF #AC #CP #VC #SX.
inline constexpr std::uint32_t kErrorCodeVectors = 1u << 8 | 0x1fu << 10 | 1u << 17 | 1u << 21 | 1u << 29 | 1u << 30;

// Error code of a page fault.
namespace pf {
inline constexpr std::uint64_t kPresent = 1, kWrite = 2, kUser = 4, kReserved = 8, kFetch = 16;
}

// The flags with which user code is resumed: its own, without I/O privilege, nested task and virtual-8086 mode.
inline constexpr std::uint64_t kInterruptFlag = 1u << 9, kIdFlag = 1u << 21;
constexpr std::uint64_t resume_flags(std::uint64_t f) { return (f & (kUserFlags | kIdFlag)) | 0x202; }

}  // namespace ramet::arch::x86_64
