// The compiler for arm64. Jumps reach 1 MiB with a condition and 128 MiB without; a conditional jump whose target may
// be farther becomes the opposite condition around a jump without one.
//
//     r0  r1  r2  r3  r4  r5  r6   r7   r8   r9   r10
//     x7  x0  x1  x2  x3  x4  x19  x20  x21  x22  x29      and x9 to x12, x16 as scratch
//
// The C ABI returns results in x0, which is r1: they are moved to x7 after calls, and from x7 where a function ends.
#pragma once

#include <array>

#include "jit/arm64/encoder.hpp"
#include "jit/back_end.hpp"

namespace ramet::jit::arm {

inline constexpr std::array<std::uint8_t, kRegisters> kReg = {7, 0, 1, 2, 3, 4, 19, 20, 21, 22, 29};
inline constexpr unsigned kScratch0 = 9, kScratch1 = 10, kScratch2 = 11, kScratch3 = 12, kCallee = 16, kLink = 30;
inline constexpr std::uint32_t kMostPrologue = 8, kMostEpilogue = 7;  // words

class Compiler : public BackEnd<Compiler, Encoder> {
 public:
  static constexpr InstructionSet kSet = InstructionSet::Arm64;
  using BackEnd::BackEnd;

 private:
  friend class BackEnd<Compiler, Encoder>;

  // compiler.cpp: functions, jumps and calls
  void prologue();
  void leave();
  template <class Write>
  void jump_if(std::uint32_t at, std::uint32_t target, const Write& write);
  void jump(std::uint32_t at, std::uint32_t target);
  template <class Use>
  void with_condition(const Instruction& i, const Form& f, bool turned_already, const Use& use);
  void branch(std::uint32_t at, std::uint32_t target, const Instruction& i, const Form& f, bool turned);
  void branch_to_exit(const Instruction& i, const Form& f, bool turned);
  void jump_to_exit();
  void move_unless(const Instruction& i, const Form& f, const Instruction& move);
  unsigned compare(const Instruction& i, const Form& f);
  void test(const Instruction& i, const Form& f);
  void call_function(std::uint32_t first);
  void call_helper(std::uint32_t number);
  void address(unsigned to, Relocation::Kind kind, std::uint32_t number, std::uint32_t offset) {
    relocations().push_back({kind, number, offset, here()});
    mov_address(to);
  }

  // most_words.cpp: the first pass; returns the most bytes of all code
  std::uint32_t estimate();

  // arithmetic.cpp: d = left OPERATION operand
  void arithmetic(const Instruction& i, const Form& f) { arithmetic(i, f, kReg[i.dst()]); }
  void arithmetic(const Instruction& i, const Form& f, unsigned left);
  void with_immediate(const Instruction& i, const Form& f, unsigned left);
  void with_register(const Instruction& i, Operation operation, unsigned left, unsigned right, bool wide);
  void move(unsigned to, unsigned from, int sign_bits, bool wide);
  void add_number(unsigned to, unsigned left, std::int64_t value, bool wide);
  void shift(Operation operation, unsigned to, unsigned left, unsigned count, bool wide);
  void divide(unsigned to, unsigned left, unsigned right, bool is_signed, bool modulo, bool wide);
  void swap(const Instruction& i, Operation operation, unsigned left);

  // memory.cpp
  std::uint32_t load(std::uint32_t, const Instruction& i, const Form& f) {
    load(kReg[i.dst()], kReg[i.src()], i.offset, f);
    return 1;
  }
  void load(unsigned to, unsigned base, std::int32_t offset, const Form& f);
  void store(const Instruction& i, const Form& f);
  void load_wide(std::uint32_t at);
  void atomic_one(const Instruction& i, bool wide);
  void packet(const Instruction& i, const Form& f);

  // fuse.cpp: several instructions that become fewer; these return how many they have translated, or 0
  std::uint32_t fused(std::uint32_t at);
  std::uint32_t extend(const Extension& e);
  std::uint32_t rotate(const Rotation& r);
  std::uint32_t add(const Sum& s);
  std::uint32_t three_operands(std::uint32_t at);

  // Of the function that is being written.
  bool has_frame_ = false;
  unsigned saved_pairs_ = 0;
};

}  // namespace ramet::jit::arm
