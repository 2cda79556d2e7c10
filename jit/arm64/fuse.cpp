// Idioms as arm64 has them, and its three operands.
#include <bit>

#include "jit/arm64/compiler.hpp"

namespace ramet::jit::arm {

using namespace opcode;

std::uint32_t Compiler::fused(std::uint32_t at) {
  const Idioms idioms(code_, marks_, now_->end);
  if (!idioms.follows(at + 1) || code_[at + 1].dst() != code_[at].dst()) return 0;
  switch (code_[at].opcode) {
    case kMov64: case kMov32:
      if (code_[at].offset != 0) return 0;
      if (const Rotation r = idioms.rotation(at); r.taken != 0) return rotate(r);
      if (code_[at].opcode == kMov64) {
        if (const std::uint32_t taken = extend(idioms.extension(at))) return taken;
        if (const std::uint32_t taken = add(idioms.sum(at))) return taken;
      }
      return three_operands(at);
    case kLsh64:
      if (const std::uint32_t taken = extend(idioms.extension(at))) return taken;
      return add(idioms.sum(at));
    case kAdd64: return add(idioms.sum(at));
    default: return 0;
  }
}

// Two shifts are one move of a field, to the right or to the left of where it was.
std::uint32_t Compiler::extend(const Extension& e) {
  if (e.taken == 0 || e.left == 0 || e.right == 0) return 0;
  const unsigned immr = (e.right - e.left) & 63, imms = 63 - e.left;
  if (e.is_signed) bits_signed(kReg[e.dst], kReg[e.src], immr, imms, true);
  else bits_unsigned(kReg[e.dst], kReg[e.src], immr, imms, true);
  return e.taken;
}

std::uint32_t Compiler::rotate(const Rotation& r) {
  rotate_right(kReg[r.dst], kReg[r.src], (r.wide ? 64 : 32) - r.left, r.wide);
  return r.taken;
}

// [d = s] [d <<= shift] d += r, and a load from there, without a number and an offset.
std::uint32_t Compiler::add(const Sum& s) {
  if (s.added == Sum::kNone) return 0;
  const unsigned dst = kReg[s.dst], added = kReg[s.added], src = kReg[s.src];
  if (s.load && s.number == 0 && s.load->offset == 0) {
    const Form& f = form(*s.load);
    const auto size = static_cast<unsigned>(std::countr_zero(f.bytes));
    if (s.shift == 0 || s.shift == size) {
      indexed(f.operation == Operation::LoadSigned ? kLoadSigned : kLoad, size, dst, added, src, s.shift != 0);
      return s.taken;
    }
  }
  const std::uint32_t sums = s.taken - (s.load ? 1 : 0);
  if (sums < 2) return 0;
  add_shifted(dst, added, src, s.shift);
  if (s.number != 0) add_number(dst, dst, s.number, true);
  return sums;
}

// d = s, d OPERATION= operand: one instruction, where the operand is not d.
std::uint32_t Compiler::three_operands(std::uint32_t at) {
  const Instruction &move = code_[at], &next = code_[at + 1];
  const Form& f = form(next);
  const bool wide = move.opcode == kMov64;
  if (!is_arithmetic(f.operation) || f.operation == Operation::Mov || (f.bytes == 8) != wide) return 0;
  if (f.operand == Operand::Register && next.src() == next.dst()) return 0;
  arithmetic(next, f, kReg[move.src()]);
  return 2;
}

}  // namespace ramet::jit::arm
