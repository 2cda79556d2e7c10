// Programs made by chance that end and touch only what they may: all operations, all registers as operands and
// addresses, immediates at the edges of 8, 16 and 32 bits, jumps of all lengths, atomics, calls.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "jit/program.hpp"
#include "tests/jit/interpreter.hpp"

namespace ramet::jit::test {

inline constexpr unsigned kBuffer = 1024;    // bytes that programs read and write
inline constexpr unsigned kRegistersAt = kBuffer - 8 * 10;  // where a program leaves its registers when it ends
inline constexpr unsigned kInput = 64;       // of these, the input

// What decides: random numbers, or a fuzzer's bytes. 32 bits at a time.
using Decide = std::function<std::uint32_t()>;

// At most about `units` instructions and little sequences for each of up to three functions.
Program random_program(const Decide& decide, unsigned units);

// Helpers and addresses for such programs: maps are in the buffer.
Interpreter interpreter_for(std::span<std::uint8_t, kBuffer> buffer);

}  // namespace ramet::jit::test
