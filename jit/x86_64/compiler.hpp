// The compiler for x86-64. A jump is short where the first pass says that its target is within reach.
//
//     r0   r1   r2   r3   r4   r5   r6   r7   r8   r9   r10
//     rax  rdi  rsi  rdx  rcx  r8   rbx  r13  r14  r15  rbp      and r9, r10, r11 as scratch
// r12, and r9 and r10 where they are not needed as scratch, may hold words of the frame (slots.hpp).
//
// Arguments and result are in the registers of the C ABI, so calls of helpers move nothing.
#pragma once

#include <array>

#include "jit/back_end.hpp"
#include "jit/x86_64/encoder.hpp"
#include "jit/x86_64/slots.hpp"

namespace ramet::jit::x86 {

inline constexpr std::array<std::uint8_t, kRegisters> kReg = {rax, rdi, rsi, rdx, rcx, r8, rbx, r13, r14, r15, rbp};
inline constexpr unsigned kScratch0 = r9, kScratch1 = r10, kScratch2 = r11;
inline constexpr std::uint32_t kMostPrologue = 40, kMostEpilogue = 16, kStub = 12, kLine = 32;  // bytes
inline constexpr unsigned kAlways = 16;  // no condition of the processor's

// The digit of an arithmetic instruction in the manual's group 1; digit * 8 + 1 is its opcode with two registers, digit
// * 8 + 3 with a register and memory.
constexpr unsigned digit_of(Operation o) {
  switch (o) {
    case Operation::Add: return 0;
    case Operation::Or: return 1;
    case Operation::And: return 4;
    case Operation::Sub: return 5;
    case Operation::Xor: return 6;
    default: __builtin_unreachable();
  }
}

class Compiler : public BackEnd<Compiler, Encoder> {
 public:
  static constexpr InstructionSet kSet = InstructionSet::X86_64;
  using BackEnd::BackEnd;

 private:
  friend class BackEnd<Compiler, Encoder>;

  // compiler.cpp: functions, jumps and calls
  void prologue();
  void leave();
  void begin(std::uint32_t at);
  void align();
  void jump(std::uint32_t at, std::uint32_t target) { jump_if(at, target, kAlways); }
  void jump_if(std::uint32_t at, std::uint32_t target, unsigned condition);
  void branch(std::uint32_t at, std::uint32_t target, const Instruction& i, const Form& f, bool turned);
  void branch_to_exit(const Instruction& i, const Form& f, bool turned);
  void jump_to_exit() { exit_if(kAlways); }
  void exit_if(unsigned condition);
  void put_jump(unsigned condition, bool is_short, std::uint32_t bits);
  void move_unless(const Instruction& i, const Form& f, const Instruction& move);
  unsigned compare(const Instruction& i, const Form& f);
  void call_function(std::uint32_t first);
  void call_helper(std::uint32_t number);
  void end();
  void relocation(Relocation::Kind kind, std::uint32_t number, std::uint32_t offset, std::uint32_t bytes) {
    relocations().push_back({kind, number, offset, here() - bytes});
  }
  // Notes that the flags are those of the register's new value, in that width.
  void flags_are_of(unsigned reg, bool wide) { flags_of_ = reg, flags_wide_ = wide, flags_until_ = at_; }

  // most_bytes.cpp: the first pass; returns the most bytes of all code
  std::uint32_t estimate();

  // arithmetic.cpp
  void arithmetic(const Instruction& i, const Form& f);
  void with_immediate(const Instruction& i, const Form& f);
  void with_register(const Instruction& i, const Form& f);
  void operate(const Instruction& i, unsigned src);
  void move(unsigned to, unsigned from, int sign_bits, bool wide);
  void extend_zero(unsigned to, unsigned from, unsigned bits);
  void multiply(unsigned dst, std::int32_t value, bool wide);
  void shift_by_register(unsigned digit, unsigned dst, unsigned src, bool wide);
  void swap(const Instruction& i, Operation operation);

  // division.cpp
  void divide_by_immediate(const Instruction& i, const Form& f);
  void divide_by_register(const Instruction& i, const Form& f);
  void divide(unsigned dst, bool is_signed, bool modulo, bool wide);

  // memory.cpp
  std::uint32_t load(std::uint32_t at, const Instruction& i, const Form& f);
  std::uint32_t load_or_use(std::uint32_t at, const Address& from);
  unsigned slot_of(const Instruction& load) const {
    return load.src() == kFramePointer ? slots_.at(load.offset) : Slots::kNone;
  }
  void load(unsigned dst, const Address& from, const Form& f);
  void store(const Instruction& i, const Form& f);
  void load_wide(std::uint32_t at);
  void atomic_one(const Instruction& i, bool wide);
  void fetch_by_exchange(const Instruction& i, bool wide);
  void packet(const Instruction& i, const Form& f);

  // fuse.cpp: several instructions that become fewer; these return how many they have translated, or 0
  std::uint32_t fused(std::uint32_t at);
  std::uint32_t extend(const Extension& e);
  std::uint32_t rotate(const Rotation& r);
  std::uint32_t add(std::uint32_t at, const Sum& s);
  std::uint32_t three_operands(std::uint32_t at);

  // Of the function that is being written.
  std::uint32_t frame_ = 0;  // bytes below rbp
  std::uint32_t padding_ = 0;  // pushed for alignment where there is no frame
  bool has_frame_ = false;
  Slots slots_;
  std::array<std::uint8_t, 5> saved_{};  // callee-saved registers, in the order in which they are pushed
  unsigned saved_count_ = 0;
  // The register whose value the flags describe, as long as no code was written since (flags_until_ == at_): comparing
  // it with 0 then needs no test.
  unsigned flags_of_ = kRegisters;
  bool flags_wide_ = false;
  const std::uint8_t* flags_until_ = nullptr;
};

}  // namespace ramet::jit::x86
