// Refuses malformed programs before they are compiled or run. This is no verifier: what a well-formed program does to
// memory, and whether it ever ends, is the business of the sandbox that it runs in.
#pragma once

#include <cstdint>
#include <expected>
#include <memory>
#include <string>
#include <vector>

#include "jit/program.hpp"

namespace ramet::jit {

// The helpers and platform variables that a program may name: by number, whether there is one.
struct Known {
  std::vector<bool> helpers, variables;
};

struct Refusal {
  std::uint32_t instruction = 0;
  std::string reason;
  std::string said() const { return "instruction " + std::to_string(instruction) + ": " + reason; }
};

// Bits by instruction, set by check() and used by compilers.
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

// A well-formed program. It refers to the Program, which must outlive it unchanged. Here, unlike in the Program, shifts
// by an immediate are by less than the operand's width.
class Checked {
 public:
  const std::vector<Instruction>& instructions() const { return *instructions_; }
  const std::uint8_t* marks() const { return marks_.get(); }  // of each instruction
  const std::vector<Function>& functions() const { return functions_; }  // by their first instructions
  const Function& function_at(std::uint32_t first) const;
  // The loads, stores and atomic operations whose base is r10, in order.
  const std::vector<std::uint32_t>& frame_accesses() const { return frame_accesses_; }

 private:
  friend class Checker;
  const std::vector<Instruction>* instructions_ = nullptr;
  std::unique_ptr<std::vector<Instruction>> changed_;  // instructions_, if they differ from the Program's
  std::unique_ptr<std::uint8_t[]> marks_;
  std::vector<Function> functions_;
  std::vector<std::uint32_t> frame_accesses_;
};

// The program may hold any bytes. What RFC 9669 allows and Linux refuses is accepted: a shift by an immediate of the
// operand's width or more uses the immediate's lower bits; division by an immediate zero gives 0, modulo the dividend.
[[nodiscard]] std::expected<Checked, Refusal> check(const Program& program, const Known& known);

}  // namespace ramet::jit
