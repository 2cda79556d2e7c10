// Refuses programs that mean nothing, before anything compiles or runs them. This is no verifier: what a well-formed
// program does to memory, and whether it ever ends, is the business of the sandbox that it runs in.
#pragma once

#include <cstdint>
#include <expected>
#include <memory>
#include <string>
#include <vector>

#include "jit/program.hpp"

namespace ramet::jit {

// What a program may name besides its own parts, by number.
struct Known {
  std::vector<bool> helpers, variables;
};

struct Refusal {
  std::uint32_t instruction = 0;
  std::string reason;
  std::string said() const { return "instruction " + std::to_string(instruction) + ": " + reason; }
};

// What is true of an instruction, found by check() and used by compilers.
namespace mark {
inline constexpr std::uint8_t kTarget = 1;         // something jumps here
inline constexpr std::uint8_t kSecondSlot = 2;     // of a wide load
inline constexpr std::uint8_t kFunction = 4;       // a function begins
inline constexpr std::uint8_t kLoop = 8;           // something jumps back here
}  // namespace mark

struct Function {
  std::uint32_t first = 0, end = 0;   // instructions
  std::uint16_t written = 0;          // registers, a bit each
  std::uint16_t stack = 0;            // bytes below r10 that it may touch
  bool calls = false;                 // a helper or a function
  bool reads_packet = false;          // by legacy loads
  bool by_address = false;            // helpers may call it
};

// A program that is well-formed. It refers to the Program, which must stay as it is. Shifts by an immediate are by less
// than the operand's width here, whatever the Program has.
class Checked {
 public:
  const std::vector<Instruction>& instructions() const { return *instructions_; }
  const std::uint8_t* marks() const { return marks_.get(); }  // of each instruction
  const std::vector<Function>& functions() const { return functions_; }  // by their first instructions
  const Function& function_at(std::uint32_t first) const;
  const std::vector<std::uint32_t>& frame_accesses() const {
    return frame_accesses_;
  }  // loads, stores, atomics by r10, from the first

 private:
  friend class Checker;
  const std::vector<Instruction>* instructions_ = nullptr;
  std::unique_ptr<std::vector<Instruction>> changed_;  // which these are, where they differ from the Program's
  std::unique_ptr<std::uint8_t[]> marks_;
  std::vector<Function> functions_;
  std::vector<std::uint32_t> frame_accesses_;
};

// Any instructions will do. What Linux refuses and RFC 9669 does not is done as that says: a shift by an immediate of
// the operand's width or more is by what is left of it there; dividing by an immediate zero gives 0, and a modulo the
// dividend.
[[nodiscard]] std::expected<Checked, Refusal> check(const Program& program, const Known& known);

}  // namespace ramet::jit
