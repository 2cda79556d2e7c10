// The compiler for x86-64: two passes over the instructions. The first adds up how much each can take at most, the second
// writes them. A jump backward knows how far it goes; one forward goes at most as far as the first pass said, and is
// short where that is within reach, so nothing that has been written ever moves.
//
//     r0   r1   r2   r3   r4   r5   r6   r7   r8   r9   r10
//     rax  rdi  rsi  rdx  rcx  r8   rbx  r13  r14  r15  rbp      and r9, r10, r11 for what is between
//
// The C ABI has its arguments and result where eBPF has them, so calls of helpers move nothing.
#pragma once

#include <array>
#include <vector>

#include "jit/compiler.hpp"
#include "jit/idioms.hpp"
#include "jit/x86_64/encoder.hpp"

namespace ramet::jit::x86 {

inline constexpr std::array<std::uint8_t, kRegisters> kReg = {rax, rdi, rsi, rdx, rcx, r8, rbx, r13, r14, r15, rbp};
inline constexpr unsigned kScratch0 = r9, kScratch1 = r10, kScratch2 = r11;
inline constexpr std::uint32_t kMostPrologue = 40, kMostEpilogue = 16, kStub = 12, kLine = 64;  // bytes

class Compiler : Encoder {
 public:
  explicit Compiler(const Checked& program)
      : program_(program), code_(program.instructions().data()), marks_(program.marks()),
        count_(static_cast<std::uint32_t>(program.instructions().size())) {}
  Compiled run();

 private:
  // A rel32 that is not known yet: to an instruction, or to a function's beginning.
  struct Fixup {
    std::uint32_t at, target;
    bool short_jump, function;
  };

  // compiler.cpp: the whole, functions, jumps and calls
  void function(std::size_t number);
  std::uint32_t instruction(std::uint32_t at);
  void prologue(const Function& f);
  void leave();
  void align();
  void jump(std::uint32_t at, std::int64_t distance, unsigned condition);
  void compare(std::uint32_t at, const Instruction& i, const Form& f);
  void call(std::uint32_t at, const Instruction& i);
  void call_function(std::uint32_t target);
  void stubs();
  void settle();
  std::uint32_t here() const { return static_cast<std::uint32_t>(at_ - out_.code_.get()); }
  void relocation(Relocation::Kind kind, std::uint32_t number, std::uint32_t offset) { out_.relocations_.push_back({kind, number, offset, here() - 8}); }

  // most_bytes.cpp: where instructions begin at most
  std::uint32_t estimate();

  // arithmetic.cpp
  void arithmetic(const Instruction& i, const Form& f);
  void with_immediate(const Instruction& i, const Form& f);
  void with_register(const Instruction& i, const Form& f);
  void move(unsigned to, unsigned from, int sign_bits, bool wide);
  void multiply(unsigned dst, std::int32_t value, bool wide);
  void shift_by_register(unsigned digit, unsigned dst, unsigned src, bool wide);
  void swap(const Instruction& i, Operation operation);

  // division.cpp
  void divide_by_immediate(const Instruction& i, const Form& f);
  void divide_by_register(const Instruction& i, const Form& f);
  void divide(unsigned dst, bool is_signed, bool modulo, bool wide);

  // memory.cpp
  void load(unsigned dst, const Address& from, Operation operation, unsigned bytes);
  void store(const Instruction& i, unsigned bytes);
  void store_immediate(const Instruction& i, unsigned bytes);
  void load_wide(std::uint32_t at);
  void atomic_one(const Instruction& i, bool wide);
  void fetch_by_exchange(const Instruction& i, bool wide);
  void packet(const Instruction& i, const Form& f);

  // fuse.cpp: several instructions that become fewer; how many were taken, or none
  std::uint32_t fused(std::uint32_t at);
  std::uint32_t extend(const Extension& e);
  std::uint32_t rotate(const Rotation& r);
  std::uint32_t add(const Sum& s);

  const Checked& program_;
  const Instruction* code_;
  const std::uint8_t* marks_;
  const std::uint32_t count_;
  Compiled out_;
  std::vector<Fixup> fixups_;
  std::vector<std::uint32_t> functions_;  // where they begin, as far as they are written

  // Of the function that is being written.
  const Function* now_ = nullptr;
  std::uint32_t end_ = 0;
  std::uint32_t epilogue_ = 0;         // where one is, if any
  std::uint32_t frame_ = 0;            // bytes below rbp
  std::uint32_t padding_ = 0;          // pushed for alignment where there is no frame
  bool has_frame_ = false;
  // The register whose value the flags are of, and its width: no test is needed before it is compared with 0.
  unsigned flags_of_ = kRegisters;
  bool flags_wide_ = false;
};

}  // namespace ramet::jit::x86
