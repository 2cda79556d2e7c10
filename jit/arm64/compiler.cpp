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

Compiled Compiler::run() {
  out_.set_ = InstructionSet::Arm64;
  out_.count_ = count_;
  out_.offsets_ = std::make_unique_for_overwrite<std::uint32_t[]>(count_ + 1);
  out_.code_ = std::make_unique_for_overwrite<std::uint8_t[]>(estimate());
  at_ = out_.code_.get();
  functions_.reserve(program_.functions().size());
  for (std::size_t f = 0; f < program_.functions().size(); ++f) function(f);
  out_.offsets_[count_] = out_.size_ = here();
  settle();
  return std::move(out_);
}

void Compiler::function(std::size_t number) {
  now_ = &program_.functions()[number];
  end_ = now_->end;
  epilogue_ = 0;
  functions_.push_back(here());
  prologue(*now_);
  for (std::uint32_t at = now_->first; at < end_;) {
    const std::uint32_t taken = instruction(at);
    for (std::uint32_t n = 1; n < taken; ++n) out_.offsets_[at + n] = out_.offsets_[at];
    at += taken;
  }
}

void Compiler::prologue(const Function& f) {
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
  if (epilogue_ != 0 && (has_frame_ || saved_pairs_ > 0)) return branch((std::int64_t{epilogue_} - here()) / 4);
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

std::uint32_t Compiler::instruction(std::uint32_t at) {
  out_.offsets_[at] = here();
  const Instruction& i = code_[at];
  const Form& f = form(i);
  if (is_arithmetic(f.operation)) {
    if (const std::uint32_t taken = fused(at)) return taken;
    arithmetic(i, f, kReg[i.dst()]);
    return 1;
  }
  if (is_condition(f.operation)) {
    compare(at, i, f);
    return 1;
  }
  switch (f.operation) {
    case Load: case LoadSigned: load(kReg[i.dst()], kReg[i.src()], i.offset, f); break;
    case Store: case StoreImmediate: store(i, f); break;
    case Atomic: atomic_one(i, f.bytes == 8); break;
    case LoadWide: load_wide(at); return 2;
    case PacketAbsolute: case PacketIndirect: packet(i, f); break;
    case Jump: jump(at, i.offset); break;
    case JumpLong: jump(at, i.immediate); break;
    case Operation::Call: call(at, i); break;
    default: leave(); break;  // Exit; there is no other
  }
  return 1;
}

void Compiler::jump(std::uint32_t at, std::int64_t distance) {
  const auto target = static_cast<std::uint32_t>(at + 1 + distance);
  if (target == at + 1) return;
  if (target <= at) return branch((std::int64_t{out_.offsets_[target]} - here()) / 4);
  fixups_.push_back({Fixup::Kind::Branch, here(), target});
  branch(0);
}

// write(words, turned) writes the jump, or the opposite one.
template <class Write>
void Compiler::jump_if(std::uint32_t at, std::int64_t distance, const Write& write) {
  const auto target = static_cast<std::uint32_t>(at + 1 + distance);
  const bool back = target <= at;
  // What follows is not written yet, so its offsets are what it takes at most.
  const std::int64_t reach = back ? std::int64_t{out_.offsets_[target]} - here() : std::int64_t{out_.offsets_[target]} - out_.offsets_[at + 1] + 8;
  if (reach < -kConditionReach || reach >= kConditionReach) {
    write(2, true);
    return jump(at, distance);
  }
  if (!back) fixups_.push_back({Fixup::Kind::ConditionalBranch, here(), target});
  write(back ? reach / 4 : 0, false);
}

void Compiler::compare(std::uint32_t at, const Instruction& i, const Form& f) {
  const bool wide = f.bytes == 8;
  const unsigned dst = kReg[i.dst()];
  if (i.offset == 0) return;
  const bool equality = f.operation == IfEqual || f.operation == IfNotEqual;
  if (f.operand == Operand::Immediate && i.immediate == 0 && equality)
    return jump_if(at, i.offset, [&](std::int64_t words, bool turned) { branch_zero((f.operation == IfEqual) != turned, dst, words, wide); });
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
  const unsigned condition = condition_of(f.operation);
  jump_if(at, i.offset, [&](std::int64_t words, bool turned) { branch_if(turned ? opposite(condition) : condition, words); });
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

void Compiler::call(std::uint32_t at, const Instruction& i) {
  if (i.src() == static_cast<unsigned>(Callee::Function)) {
    fixups_.push_back({Fixup::Kind::Call, here(), static_cast<std::uint32_t>(at + std::int64_t{1} + i.immediate)});
    Encoder::call(0);
  } else {
    address(kCallee, Relocation::Kind::Helper, static_cast<std::uint32_t>(i.immediate), 0);
    call_register(kCallee);
  }
  mov(kReg[0], 0, true);
}

void Compiler::settle() {
  std::uint8_t* code = out_.code_.get();
  for (const Fixup& f : fixups_) {
    const bool to_function = f.kind == Fixup::Kind::Call || f.kind == Fixup::Kind::Address;
    const std::uint32_t target = to_function ? functions_[static_cast<std::size_t>(&program_.function_at(f.target) - program_.functions().data())] : out_.offsets_[f.target];
    const std::int64_t bytes = std::int64_t{target} - f.at;
    const auto add = [&](std::uint32_t at, std::uint32_t bits) {
      std::uint32_t word;
      std::memcpy(&word, code + at, 4);
      word |= bits;
      std::memcpy(code + at, &word, 4);
    };
    switch (f.kind) {
      case Fixup::Kind::Branch: case Fixup::Kind::Call: add(f.at, field(bytes / 4, 26)); break;
      case Fixup::Kind::ConditionalBranch: add(f.at, field(bytes / 4, 19) << 5); break;
      case Fixup::Kind::Address:  // two moves of 16 bits after the address of this place
        add(f.at + 4, field(bytes, 16) << 5);
        add(f.at + 8, field(bytes >> 16, 16) << 5);
        break;
    }
  }
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
