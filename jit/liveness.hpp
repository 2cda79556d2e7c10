// Which registers something may still read. Code that sets others for nobody is left out, and what is only needed on
// the way to something else needs no register.
//
// Found out backward: visit() each instruction from the last one to the first, then converge(). At first it counts as if
// all registers were alive where a jump leads back to, so what is found dead is dead at any time.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "jit/check.hpp"

namespace ramet::jit {

class Liveness {
 public:
  explicit Liveness(const Checked& program);

  // By what is alive after the instruction, as the visit to the next one said; what is alive before.
  std::uint32_t visit(std::uint32_t at, std::uint32_t after) {
    const std::uint32_t now = before(at, after);
    alive_[at] = static_cast<std::uint16_t>(now);
    return now;
  }
  // From where jumps lead back, by what is alive there now, until it makes no difference any more.
  void converge();

  bool dead_after(std::uint32_t at, unsigned reg) const {
    return !(alive_[at + 1] >> reg & 1);
  }  // of what does not jump

 private:
  static constexpr std::uint16_t kAll = 0xffff, kArguments = 0x3e;  // r1 to r5

  // What an instruction does to registers: all bits or none of the lower half for its destination, of the upper half
  // for its source. What does more than its form says is looked at by itself.
  struct Effect {
    std::uint32_t reads = 0;
    std::uint16_t writes = 0;
    bool special = false;
  };
  struct Tables {
    std::array<Effect, 256> effects{};           // by opcode
    std::array<std::uint32_t, 256> registers{};  // destination and source as such bits, by Instruction::registers
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
  std::vector<std::uint32_t> back_;  // jumps that lead back
};

}  // namespace ramet::jit
