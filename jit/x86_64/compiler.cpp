#include "jit/x86_64/compiler.hpp"

#include <algorithm>
#include <cstring>

namespace ramet::jit::x86 {

using enum Operation;

namespace {

constexpr std::array<std::uint8_t, 4> kKept = {6, 7, 8, 9};  // eBPF's callee-saved registers

unsigned condition_of(Operation o) {
  switch (o) {
    case IfEqual: return kEqual;
    case IfGreater: return kAbove;
    case IfGreaterEqual: return kAboveEqual;
    case IfSignedGreater: return kGreater;
    case IfSignedGreaterEqual: return kGreaterEqual;
    case IfLess: return kBelow;
    case IfLessEqual: return kBelowEqual;
    case IfSignedLess: return kLess;
    case IfSignedLessEqual: return kLessEqual;
    default: return kNotEqual;  // IfNotEqual, IfSet
  }
}

}  // namespace

void Compiler::prologue() {
  const Function& f = *now_;
  slots_.choose(program_, f);
  saved_count_ = 0;
  for (const unsigned r : kKept)
    if (f.written >> r & 1) saved_[saved_count_++] = kReg[r];
  if (slots_.use_r12()) saved_[saved_count_++] = r12;
  const unsigned pushed = saved_count_;
  for (unsigned n = 0; n < pushed; ++n) push(saved_[n]);
  has_frame_ = f.stack != 0 || f.reads_packet;
  padding_ = 0;
  if (has_frame_) {
    push(rbp);
    mov(rbp, rsp, true);
    frame_ = (f.stack + 7u) / 8 * 8 + (f.reads_packet ? 16 : 0);
    if ((16 + 8 * pushed + frame_) % 16 != 0) frame_ += 8;
    immediate(5, rsp, static_cast<std::int32_t>(frame_), true);
    if (f.reads_packet) {
      memory({.bytes = 0x89, .wide = true}, rdi, rbp, -static_cast<std::int32_t>(frame_));
      memory({.bytes = 0x89, .wide = true}, rsi, rbp, 8 - static_cast<std::int32_t>(frame_));
    }
  } else if (f.calls && pushed % 2 == 0) {
    padding_ = 8;
    push(rax);
  }
}

void Compiler::leave() {
  const bool short_enough = !has_frame_ && !padding_ && (saved_count_ == 0 || (saved_count_ == 1 && saved_[0] < r8));
  if (epilogue_ != 0 && !short_enough) return exit_if(kAlways);
  epilogue_ = here();
  if (has_frame_) put(0xc9, 1);
  else if (padding_) pop(r11);
  for (unsigned n = saved_count_; n-- > 0;) pop(saved_[n]);
  put(0xc3, 1);
}

void Compiler::begin(std::uint32_t at) {
  if (marks_[at] & mark::kLoop) align();
  if (marks_[at] & mark::kTarget) flags_until_ = nullptr;
}

// A short loop runs up to three times as fast if it does not cross a boundary of cache lines.
void Compiler::align() {
  for (unsigned left = -here() % kLine; left != 0;) {
    const unsigned length = std::min(left, 9u);
    nop(length);
    left -= length;
  }
}

void Compiler::jump_if(std::uint32_t at, std::uint32_t target, unsigned condition) {
  const bool back = target <= at;
  const unsigned length = condition == kAlways ? 5 : 6;
  const std::uint32_t padding = marks_[target] & mark::kLoop ? kLine - 1 : 0;
  const std::int64_t displacement = back ? std::int64_t{offset_of(target)} - here()
                                         : std::int64_t{offset_of(target)} + padding - offset_of(at + 1) + 2;
  const bool is_short = fits8(displacement - 2);
  const auto bits = static_cast<std::uint32_t>(displacement - (is_short ? 2 : length));
  put_jump(condition, is_short, bits);
  if (!back) to_instruction(is_short ? Displacement::Byte : Displacement::Word, here() - (is_short ? 1 : 4), target);
}

void Compiler::put_jump(unsigned condition, bool is_short, std::uint32_t bits) {
  if (is_short) put((condition == kAlways ? 0xebu : 0x70u | condition) | std::uint64_t(bits & 0xff) << 8, 2);
  else if (condition == kAlways) put(0xe9 | std::uint64_t{bits} << 8, 5);
  else put(0x0f | (0x80u | condition) << 8 | std::uint64_t{bits} << 16, 6);
}

void Compiler::branch(std::uint32_t at, std::uint32_t target, const Instruction& i, const Form& f, bool turned) {
  jump_if(at, target, compare(i, f) ^ unsigned{turned});
}

void Compiler::branch_to_exit(const Instruction& i, const Form& f, bool turned) {
  exit_if(compare(i, f) ^ unsigned{turned});
}

void Compiler::exit_if(unsigned condition) {
  const std::int64_t back = std::int64_t{epilogue_} - here();
  const bool is_short = epilogue_ != 0 && fits8(back - 2);
  const auto bits = static_cast<std::uint32_t>(epilogue_ == 0 ? 0
                                                              : back - (is_short               ? 2
                                                                        : condition == kAlways ? 5
                                                                                               : 6));
  put_jump(condition, is_short, bits);
  if (epilogue_ == 0) to_exit(Displacement::Word, here() - 4);
}

void Compiler::move_unless(const Instruction& i, const Form& f, const Instruction& move) {
  unsigned from = kReg[move.src()];
  if (form(move).operand == Operand::Immediate) {
    mov_immediate(from = kScratch2, number_of(move, form(move).bytes == 8));
  } else if (move.opcode == opcode::kMov32) {  // the processor would clear the upper half in any case
    mov(kScratch2, from, false);
    from = kScratch2;
  }
  const unsigned condition = compare(i, f) ^ 1;
  registers({.bytes = 0x0fu | (0x40u | condition) << 8, .length = 2, .wide = true}, kReg[move.dst()], from);
}

// Sets the flags; returns the condition to test.
unsigned Compiler::compare(const Instruction& i, const Form& f) {
  const bool wide = f.bytes == 8;
  const unsigned dst = kReg[i.dst()];
  const bool flags_are_there = flags_until_ == at_ && flags_of_ == i.dst() && flags_wide_ == wide;
  if (f.operand == Operand::Register) {
    registers({.bytes = f.operation == IfSet ? 0x85u : 0x39u, .wide = wide}, kReg[i.src()], dst);
  } else if (f.operation == IfSet) {
    if (i.immediate >= 0 && i.immediate < 0x80) {
      one({.bytes = 0xf6, .byte_register = true}, 0, dst);
      put(static_cast<std::uint8_t>(i.immediate), 1);
    } else {
      one({.bytes = 0xf7, .wide = wide && i.immediate < 0}, 0, dst);
      put(static_cast<std::uint32_t>(i.immediate), 4);
    }
  } else if (i.immediate != 0) {
    immediate(7, dst, i.immediate, wide);
  } else if (!flags_are_there || (f.operation != IfEqual && f.operation != IfNotEqual)) {
    registers({.bytes = 0x85, .wide = wide}, dst, dst);
  }
  return condition_of(f.operation);
}

void Compiler::call_function(std::uint32_t first) {
  put(0xe8, 5);
  to_function(Displacement::Word, here() - 4, first);
}

void Compiler::call_helper(std::uint32_t number) {
  put(0xe8, 5);
  relocation(Relocation::Kind::Helper, number, 0, 4);
}

// A call reaches 2 GiB, and the addresses of helpers are not known yet: for each helper that is called, a jump that
// reaches any address is written behind the program.
void Compiler::end() {
  std::vector<std::uint32_t> stub_of;
  for (Relocation& r : relocations()) {
    if (r.kind != Relocation::Kind::Helper) continue;
    if (stub_of.size() <= r.number) stub_of.resize(r.number + 1);
    if (stub_of[r.number] == 0) {
      stub_of[r.number] = here();
      mov_address(rax, 0);  // r0, which a call leaves to the helper
      put(0xe0ff, 2);  // jmp rax
    }
    r.stub = stub_of[r.number];
  }
}

}  // namespace ramet::jit::x86

namespace ramet::jit {

Compiled compile_x86_64(const Checked& program) { return x86::Compiler(program).run(); }

void relocate_x86_64(std::span<std::uint8_t> code, std::uint64_t address, const Relocation& r, std::uint64_t value) {
  if (r.kind != Relocation::Kind::Helper) {
    std::memcpy(code.data() + r.at, &value, sizeof value);
    return;
  }
  std::memcpy(code.data() + r.stub + 2, &value, sizeof value);
  const auto displacement = static_cast<std::int64_t>(value - (address + r.at + 4));
  const auto relative = static_cast<std::uint32_t>(x86::fits32(displacement) ? displacement
                                                                             : std::int64_t{r.stub} - (r.at + 4));
  std::memcpy(code.data() + r.at, &relative, sizeof relative);
}

}  // namespace ramet::jit
