#include "jit/arm64/compiler.hpp"

#include <cstring>

namespace ramet::jit::arm {

using enum Operation;

namespace {

constexpr std::int64_t kConditionReach = 1 << 20;  // bytes

unsigned condition_of(Operation o) {
  switch (o) {
    case IfEqual: return kEqual;
    case IfGreater: return kHigher;
    case IfGreaterEqual: return kHigherSame;
    case IfSignedGreater: return kGreater;
    case IfSignedGreaterEqual: return kGreaterEqual;
    case IfLess: return kLower;
    case IfLessEqual: return kLowerSame;
    case IfSignedLess: return kLess;
    case IfSignedLessEqual: return kLessEqual;
    default: return kNotEqual;  // IfNotEqual, IfSet
  }
}

}  // namespace

void Compiler::prologue() {
  const Function& f = *now_;
  saved_pairs_ = f.written >> 8 & 3 ? 2 : f.written >> 6 & 3 ? 1 : 0;
  if (saved_pairs_ > 0) push_pair(kReg[6], kReg[7]);
  if (saved_pairs_ > 1) push_pair(kReg[8], kReg[9]);
  has_frame_ = f.stack != 0 || f.calls || f.reads_packet;
  if (!has_frame_) return;
  push_pair(kReg[kFramePointer], kLink);
  add_immediate(kReg[kFramePointer], kSp, 0, true);
  const unsigned frame = (f.stack + 15u) / 16 * 16 + (f.reads_packet ? 16 : 0);
  if (frame != 0) subtract_immediate(kSp, kSp, frame, true);
  if (f.reads_packet) {  // input and length lie at sp
    memory(kStore, 3, kReg[1], kSp, 0, kScratch0);
    memory(kStore, 3, kReg[2], kSp, 8, kScratch0);
  }
}

void Compiler::leave() {
  if (epilogue_ != 0 && (has_frame_ || saved_pairs_ > 0))
    return Encoder::branch((std::int64_t{epilogue_} - here()) / 4);
  epilogue_ = here();
  mov(0, kReg[0], true);
  if (has_frame_) {
    if (now_->stack != 0 || now_->reads_packet) add_immediate(kSp, kReg[kFramePointer], 0, true);
    pop_pair(kReg[kFramePointer], kLink);
  }
  if (saved_pairs_ > 1) pop_pair(kReg[8], kReg[9]);
  if (saved_pairs_ > 0) pop_pair(kReg[6], kReg[7]);
  ret();
}

void Compiler::jump(std::uint32_t at, std::uint32_t target) {
  const bool back = target <= at;
  if (!back) to_instruction(Displacement::Branch, here(), target);
  Encoder::branch(back ? (std::int64_t{offset_of(target)} - here()) / 4 : 0);
}

// Writes a conditional jump to an instruction, near or far. write(words, turned) writes the condition, or its opposite.
template <class Write>
void Compiler::jump_if(std::uint32_t at, std::uint32_t target, const Write& write) {
  const bool back = target <= at;
  const std::int64_t reach = back ? std::int64_t{offset_of(target)} - here()
                                  : std::int64_t{offset_of(target)} - offset_of(at + 1) + 8;
  if (reach < -kConditionReach || reach >= kConditionReach) {
    write(2, true);
    return jump(at, target);
  }
  if (!back) to_instruction(Displacement::ConditionalBranch, here(), target);
  write(back ? reach / 4 : 0, false);
}

// Compares, and gives `use` a function write(words, turned) that writes the conditional jump, or the opposite one.
template <class Use>
void Compiler::with_condition(const Instruction& i, const Form& f, bool turned_already, const Use& use) {
  const bool equality = f.operation == IfEqual || f.operation == IfNotEqual;
  if (f.operand == Operand::Immediate && i.immediate == 0 && equality) {
    const bool zero = (f.operation == IfEqual) != turned_already;
    return use(
        [&](std::int64_t words, bool turned) { branch_zero(zero != turned, kReg[i.dst()], words, f.bytes == 8); });
  }
  const unsigned condition = compare(i, f) ^ unsigned { turned_already };
  use([&](std::int64_t words, bool turned) { branch_if(turned ? opposite(condition) : condition, words); });
}

void Compiler::branch(std::uint32_t at, std::uint32_t target, const Instruction& i, const Form& f, bool turned) {
  with_condition(i, f, turned, [&](const auto& write) { jump_if(at, target, write); });
}

void Compiler::branch_to_exit(const Instruction& i, const Form& f, bool turned) {
  with_condition(i, f, turned, [&](const auto& write) {
    if (epilogue_ == 0) to_exit(Displacement::ConditionalBranch, here());
    write(epilogue_ == 0 ? 0 : (std::int64_t{epilogue_} - here()) / 4, false);
  });
}

void Compiler::jump_to_exit() {
  if (epilogue_ == 0) to_exit(Displacement::Branch, here());
  Encoder::branch(epilogue_ == 0 ? 0 : (std::int64_t{epilogue_} - here()) / 4);
}

void Compiler::move_unless(const Instruction& i, const Form& f, const Instruction& move) {
  unsigned from = kReg[move.src()];
  const unsigned condition = compare(i, f), dst = kReg[move.dst()];
  if (form(move).operand == Operand::Immediate) {
    from = move.immediate == 0 ? kZero : kScratch0;
    if (from != kZero) mov_immediate(from, number_of(move, form(move).bytes == 8));
  } else if (move.opcode == opcode::kMov32) {
    mov(kScratch0, from, false);
    from = kScratch0;
  }
  select(dst, dst, from, condition);
}

// Sets the flags; returns the condition to test.
unsigned Compiler::compare(const Instruction& i, const Form& f) {
  const bool wide = f.bytes == 8;
  const unsigned dst = kReg[i.dst()];
  if (f.operation == IfSet) {
    test(i, f);
  } else if (f.operand == Operand::Register) {
    three(kSubFlags, kZero, dst, kReg[i.src()], wide);
  } else if (i.immediate >= 0 && i.immediate < 4096) {
    compare_immediate(dst, static_cast<unsigned>(i.immediate), wide);
  } else if (i.immediate < 0 && i.immediate > -4096) {
    compare_negative(dst, static_cast<unsigned>(-i.immediate), wide);
  } else {
    mov_immediate(kScratch0, static_cast<std::uint64_t>(std::int64_t{i.immediate}));
    three(kSubFlags, kZero, dst, kScratch0, wide);
  }
  return condition_of(f.operation);
}

void Compiler::test(const Instruction& i, const Form& f) {
  const bool wide = f.bytes == 8;
  unsigned operand = kReg[i.src()];
  if (f.operand == Operand::Immediate) {
    const auto value = static_cast<std::uint64_t>(std::int64_t{i.immediate});
    if (const auto mask = mask_immediate(value, wide)) return masked(kAndFlagsMask, kZero, kReg[i.dst()], *mask, wide);
    mov_immediate(operand = kScratch0, value);
  }
  three(kAndFlags, kZero, kReg[i.dst()], operand, wide);
}

void Compiler::call_function(std::uint32_t first) {
  to_function(Displacement::Branch, here(), first);
  Encoder::call(0);
  mov(kReg[0], 0, true);
}

void Compiler::call_helper(std::uint32_t number) {
  address(kCallee, Relocation::Kind::Helper, number, 0);
  call_register(kCallee);
  mov(kReg[0], 0, true);
}

}  // namespace ramet::jit::arm

namespace ramet::jit {

Compiled compile_arm64(const Checked& program) { return arm::Compiler(program).run(); }

void relocate_arm64(std::span<std::uint8_t> code, std::uint64_t, const Relocation& r, std::uint64_t value) {
  std::uint8_t* at = code.data() + r.at;
  for (unsigned q = 0; q < 4; ++q) {
    std::uint32_t word;
    std::memcpy(&word, at + 4 * q, 4);
    word = (word & ~(0xffffu << 5)) | static_cast<std::uint32_t>(value >> 16 * q & 0xffff) << 5;
    std::memcpy(at + 4 * q, &word, 4);
  }
}

}  // namespace ramet::jit
