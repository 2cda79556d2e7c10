// User-mode state of one x86-64 thread: what a trap saves and a resume restores.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace ramet::arch::x86_64 {

// Where a program's addresses end, on every machine: some of them need room above it, below where the processor's own
// user half ends.
inline constexpr std::uint64_t kUserEnd = 0x7fff'fc00'0000;

struct UserRegs {
  std::uint64_t rax = 0, rbx = 0, rcx = 0, rdx = 0, rsi = 0, rdi = 0, rsp = 0, rbp = 0;
  std::uint64_t r8 = 0, r9 = 0, r10 = 0, r11 = 0, r12 = 0, r13 = 0, r14 = 0, r15 = 0;
  std::uint64_t rip = 0, rflags = 0x202;

  // The names the rooms above use, the same for both architectures.
  std::uint64_t pc() const { return rip; }
  void set_pc(std::uint64_t v) { rip = v; }
  std::uint64_t sp() const { return rsp; }
  void set_sp(std::uint64_t v) { rsp = v; }
  std::uint64_t syscall_number() const { return rax; }
  std::array<std::uint64_t, 6> syscall_arguments() const { return {rdi, rsi, rdx, r10, r8, r9}; }
  void set_result(std::uint64_t v) { rax = v; }
  // SIGTRAP after each instruction.
  bool single_steps() const { return rflags & kTrapFlag; }
  void set_single_steps(bool on) { rflags = on ? rflags | kTrapFlag : rflags & ~kTrapFlag; }
  static constexpr std::uint64_t kTrapFlag = 0x100;
  static constexpr unsigned kSyscallLength = 2;  // bytes of SYSCALL: pc() - kSyscallLength runs it again
};

// Selectors of user code, those that Linux has.
inline constexpr std::uint16_t kUserSs = 0x2b, kUserCs = 0x33;

// XSAVE area in the standard layout; the first 512 bytes are FXSAVE's. 4 KiB hold AVX-512.
struct FpState {
  alignas(64) std::array<std::byte, 4096> area{};
};

// The flags user code may set by a signal frame: CF PF AF ZF SF TF DF OF RF AC; IF stays set.
inline constexpr std::uint64_t kUserFlags = 0x50dd5;
constexpr std::uint64_t sanitize_flags(std::uint64_t f) { return (f & kUserFlags) | 0x202; }

}  // namespace ramet::arch::x86_64
