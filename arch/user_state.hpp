// User-mode state of one thread on any instruction set: what a trap saves and a resume restores. The twins name the
// words (x86_64/user_state.hpp: Rax...), GuestAbi says what Linux uses them for (guest_abi.hpp: reg.pc...).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace ramet::arch {

struct UserRegs {
  static constexpr std::size_t kWords = 34;  // arm64's 31, stack pointer, program counter, flags; x86-64 has fewer
  std::array<std::uint64_t, kWords> word{};  // words beyond the instruction set's registers stay 0

  constexpr std::uint64_t& operator[](std::size_t n) { return word[n]; }
  constexpr std::uint64_t operator[](std::size_t n) const { return word[n]; }
};

// Bases for thread-local storage: x86-64's FS and GS, arm64's TPIDR_EL0. clone(2) sets the first.
inline constexpr std::size_t kMostBases = 2;
using Bases = std::array<std::uint64_t, kMostBases>;

// Floating-point and vector registers, in the layout of the twin's user_state.hpp.
struct FpState {
  alignas(64) std::array<std::byte, 4096> area{};
};

// Which part of FpState the processor has.
struct FpFormat {
  std::uint64_t components = 0;     // x86-64: XCR0
  std::uint32_t bytes = 0;          // x86-64: size of the XSAVE area; 0: FXSAVE only, 512 bytes
};

}  // namespace ramet::arch
