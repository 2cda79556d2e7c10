// User-mode state of one x86-64 thread: the names of its words.
#pragma once

#include <cstddef>
#include <cstdint>

#include "arch/user_state.hpp"

namespace ramet::arch::x86_64 {

// GuestAbi::user_end.
inline constexpr std::uint64_t kUserEnd = 0x7fff'fc00'0000;

// The words of UserRegs, in the order of KVM's struct kvm_regs, and its bases.
enum Register : std::uint8_t {
  Rax,
  Rbx,
  Rcx,
  Rdx,
  Rsi,
  Rdi,
  Rsp,
  Rbp,
  R8,
  R9,
  R10,
  R11,
  R12,
  R13,
  R14,
  R15,
  Rip,
  Rflags
};
inline constexpr std::size_t kRegisterCount = Rflags + 1;
enum Base : std::uint8_t { FsBase, GsBase };

inline constexpr std::uint64_t kTrapFlag = 0x100;  // SIGTRAP after each instruction
inline constexpr unsigned kSyscallLength = 2;      // bytes of SYSCALL

// Whether the address is a sign-extended 48-bit one. IRETQ and SYSRET to any other raise #GP, on some processors in
// ring 0, and the processor refuses others as bases.
constexpr bool is_canonical(std::uint64_t address) {
  return static_cast<std::uint64_t>(static_cast<std::int64_t>(address << 16) >> 16) == address;
}

// Selectors of user code, as on Linux.
inline constexpr std::uint16_t kUserSs = 0x2b, kUserCs = 0x33;

// FpState is an XSAVE area in the standard layout; the first 512 bytes are FXSAVE's. 4 KiB have room for AVX-512.

// Sets the state as after execve(2): all exceptions masked, everything else in its initial configuration.
void reset(FpState&);

// The flags user code may set by a signal frame: CF PF AF ZF SF TF DF OF RF AC; IF stays set.
inline constexpr std::uint64_t kUserFlags = 0x50dd5, kFixedFlags = 0x202;
constexpr std::uint64_t sanitize_flags(std::uint64_t f) { return (f & kUserFlags) | kFixedFlags; }

}  // namespace ramet::arch::x86_64
