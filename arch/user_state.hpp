// User-mode state of one thread, whatever its instruction set: what a trap saves and a resume restores. Each word's
// name is its twin's to tell (x86_64/user_state.hpp: Rax...), and what Linux uses it for the ABI's (guest_abi.hpp:
// reg.pc...).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace ramet::arch {

struct UserRegs {
  static constexpr std::size_t kWords = 34;  // arm64's 31, stack pointer, program counter, flags; x86-64 has fewer
  std::array<std::uint64_t, kWords> word{};  // those that the instruction set has not stay 0

  constexpr std::uint64_t& operator[](std::size_t n) { return word[n]; }
  constexpr std::uint64_t operator[](std::size_t n) const { return word[n]; }
};

// Bases for thread-local storage: x86-64's FS and GS, arm64's TPIDR_EL0. clone(2) sets the first.
inline constexpr std::size_t kMostBases = 2;
using Bases = std::array<std::uint64_t, kMostBases>;

// Floating-point and vector registers, laid out as the instruction set's own instructions or Linux do.
struct FpState {
  alignas(64) std::array<std::byte, 4096> area{};
};

// What of FpState the processor has.
struct FpFormat {
  std::uint64_t components = 0;     // x86-64: XCR0
  std::uint32_t bytes = 0;          // x86-64: size of the XSAVE area; 0: FXSAVE only, 512 bytes
};

}  // namespace ramet::arch
