// Idioms that are one instruction of arm64, and arithmetic with three operands.
#include <bit>

#include "jit/arm64/compiler.hpp"

namespace ramet::jit::arm {

using namespace opcode;

std::uint32_t Compiler::fused(std::uint32_t at) {
  const std::uint8_t opcode = code_[at].opcode;
  if (opcode == kLsh64)
    if (const std::uint32_t taken = add(idioms_.scaled_sum(at))) return taken;
  if (code_[at + 1].dst() != code_[at].dst() || !idioms_.follows(at + 1)) return 0;
  switch (opcode) {
    case kMov64:
    case kMov32:
      if (code_[at].offset != 0) return 0;
      if (const Rotation r = idioms_.rotation(at); r.taken != 0) return rotate(r);
      if (const std::uint32_t taken = extend(idioms_.extension(at))) return taken;
      if (opcode == kMov64)
        if (const std::uint32_t taken = add(idioms_.sum(at))) return taken;
      return three_operands(at);
    case kLsh32: return extend(idioms_.extension(at));
    case kLsh64:
      if (const std::uint32_t taken = extend(idioms_.extension(at))) return taken;
      [[fallthrough]];
    case kAdd64: return add(idioms_.sum(at));
    default: return 0;
  }
}

// Two shifts become one bit-field move (sbfm, ubfm), to the right or to the left.
std::uint32_t Compiler::extend(const Extension& e) {
  if (e.taken == 0 || e.left == 0 || e.right == 0) return 0;
  const unsigned last = e.wide ? 63 : 31, immr = (e.right - e.left) & last, imms = last - e.left;
  if (e.is_signed) bits_signed(kReg[e.dst], kReg[e.src], immr, imms, e.wide);
  else bits_unsigned(kReg[e.dst], kReg[e.src], immr, imms, e.wide);
  return e.taken;
}

std::uint32_t Compiler::rotate(const Rotation& r) {
  rotate_right(kReg[r.dst], kReg[r.src], (r.wide ? 64 : 32) - r.left, r.wide);
  return r.taken;
}

// ADD (shifted register), fused with a load from the sum if both immediates are 0.
std::uint32_t Compiler::add(const Sum& s) {
  if (s.added == Sum::kNone) return 0;
  const unsigned dst = kReg[s.dst], added = kReg[s.added], src = kReg[s.src];
  const std::uint32_t sums = s.taken - (s.load ? 1 : 0);
  const auto size = s.load ? static_cast<unsigned>(std::countr_zero(form(*s.load).bytes)) : 0;
  const bool loads = s.load && s.number == 0 && s.load->offset == 0 && (s.shift == 0 || s.shift == size);
  if (!loads && sums < 2) return 0;
  if (s.before) load(kReg[s.before->dst()], kReg[s.before->src()], s.before->offset, form(*s.before));
  if (loads) {
    indexed(form(*s.load).operation == Operation::LoadSigned ? kLoadSigned : kLoad, size, kReg[s.load->dst()], added,
            src, s.shift != 0);
    return s.taken;
  }
  add_shifted(dst, added, src, s.shift);
  if (s.number != 0) add_number(dst, dst, s.number, true);
  return sums;
}

// d = s, d OPERATION= operand becomes one instruction if the operand is not d.
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
