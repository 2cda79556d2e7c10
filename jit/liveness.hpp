// Liveness: which registers may still be read. Code that sets dead registers is left out, and intermediate values that
// are dead afterwards need no register.
//
// Found backward: visit() each instruction from the last one to the first, then converge(). At first all registers
// count as alive at the targets of backward jumps, so a register that is found dead is dead at any time.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "jit/check.hpp"

namespace ramet::jit {

class Liveness {
 public:
  explicit Liveness(const Checked& program);

  // Takes the registers that are alive after the instruction, as visit() of the next one returned them; returns those
  // alive before it. A bit each.
  std::uint32_t visit(std::uint32_t at, std::uint32_t after) {
    const std::uint32_t now = before(at, after);
    alive_[at] = static_cast<std::uint16_t>(now);
    return now;
  }
  // Visits again from each backward jump up, by what is alive at its target now, until nothing changes.
  void converge();

  // Precondition: the instruction does not jump.
  bool dead_after(std::uint32_t at, unsigned reg) const { return !(alive_[at + 1] >> reg & 1); }

 private:
  static constexpr std::uint16_t kAll = 0xffff, kArguments = 0x3e;  // r1 to r5

  // What an opcode does to registers, as masks: of `reads` the lower half for the destination, the upper half for the
  // source. `special`: it does more than its form says, see before_special().
  struct Effect {
    std::uint32_t reads = 0;
    std::uint16_t writes = 0;
    bool special = false;
  };
  struct Tables {
    std::array<Effect, 256> effects{};  // by opcode
    std::array<std::uint32_t, 256> registers{};  // destination and source as bits in the halves, by
                                                 // Instruction::registers
    Tables();
  };
  static const Tables kTables;

  std::uint32_t before(std::uint32_t at, std::uint32_t after) {
    const Instruction& i = code_[at];
    const Effect& e = kTables.effects[i.opcode];
    const std::uint32_t registers = kTables.registers[i.registers], reads = registers & e.reads;
    if (e.special) after = before_special(at, after);
    return (after & ~(registers & e.writes)) | (reads & 0xffff) | reads >> 16;
  }
  std::uint32_t before_special(std::uint32_t at, std::uint32_t after);
  std::uint32_t target(std::uint32_t at, std::int64_t distance);

  const Instruction* code_;
  std::unique_ptr<std::uint16_t[]> alive_;  // before each instruction, a bit for each register; and after the last one
  std::vector<std::uint32_t> back_;  // backward jumps
};

}  // namespace ramet::jit
