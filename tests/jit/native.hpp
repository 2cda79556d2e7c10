// Runs compiled programs in this very process, on the host's own processor. What a program does wrong ends it, not the
// test.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "jit/compiler.hpp"
#include "tests/jit/interpreter.hpp"

namespace ramet::jit::test {

InstructionSet host_instruction_set();

class Native {
 public:
  Native();
  ~Native();
  Native(const Native&) = delete;
  Native& operator=(const Native&) = delete;

  // Puts the program into executable memory and returns its address; `with` has its helpers and addresses.
  const void* place(const Compiled& program, const Interpreter& with);
  // r0; nothing if it took a signal, or seconds. `ended_by` is that signal.
  std::optional<std::uint64_t> run(std::uint64_t r1, std::uint64_t r2);
  int ended_by = 0;

 private:
  static constexpr std::size_t kRoom = 16 << 20;
  std::uint8_t* code_ = nullptr;
};

// Checks, compiles for the host and runs; r0. Fails the test where the program is refused.
std::optional<std::uint64_t> run_native(const Program& program, const Interpreter& with, std::uint64_t r1 = 0,
                                        std::uint64_t r2 = 0);

}  // namespace ramet::jit::test
