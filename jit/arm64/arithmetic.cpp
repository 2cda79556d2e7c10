#include "jit/arm64/compiler.hpp"

namespace ramet::jit::arm {

using enum Operation;

void Compiler::arithmetic(const Instruction& i, const Form& f, unsigned left) {
  const bool wide = f.bytes == 8;
  switch (f.operation) {
    case ToLittle:
    case ToBig:
    case Swap: return swap(i, f.operation, left);
    case Neg: return three(kSub, kReg[i.dst()], kZero, left, wide);
    case Mov:
      if (f.operand == Operand::Register) return move(kReg[i.dst()], kReg[i.src()], i.offset, wide);
      return mov_immediate(kReg[i.dst()], number_of(i, wide));
    default: break;
  }
  if (f.operand == Operand::Register) with_register(i, f.operation, left, kReg[i.src()], wide);
  else with_immediate(i, f, left);
}

void Compiler::with_immediate(const Instruction& i, const Form& f, unsigned left) {
  const unsigned dst = kReg[i.dst()];
  const bool wide = f.bytes == 8;
  const std::int64_t value = i.immediate;
  switch (f.operation) {
    case Add: return add_number(dst, left, value, wide);
    case Sub: return add_number(dst, left, -value, wide);
    case Lsh:
    case Rsh:
    case Arsh: return shift(f.operation, dst, left, static_cast<unsigned>(i.immediate), wide);
    case And:
    case Or:
    case Xor:
      if (const auto mask = mask_immediate(static_cast<std::uint64_t>(value), wide))
        return masked(f.operation == And ? kAndMask : f.operation == Or ? kOrMask : kXorMask, dst, left, *mask, wide);
      break;
    default: break;
  }
  mov_immediate(kScratch0, static_cast<std::uint64_t>(value));
  with_register(i, f.operation, left, kScratch0, wide);
}

void Compiler::with_register(const Instruction& i, Operation operation, unsigned left, unsigned right, bool wide) {
  const unsigned dst = kReg[i.dst()];
  switch (operation) {
    case Add: return three(kAdd, dst, left, right, wide);
    case Sub: return three(kSub, dst, left, right, wide);
    case Or: return three(kOr, dst, left, right, wide);
    case And: return three(kAnd, dst, left, right, wide);
    case Xor: return three(kXor, dst, left, right, wide);
    case Lsh: return three(kLslv, dst, left, right, wide);  // by the count's lowest bits, as eBPF says
    case Rsh: return three(kLsrv, dst, left, right, wide);
    case Arsh: return three(kAsrv, dst, left, right, wide);
    case Mul: return multiply_add(dst, left, right, kZero, wide);
    default: return divide(dst, left, right, i.offset == 1, operation == Mod, wide);
  }
}

void Compiler::move(unsigned to, unsigned from, int sign_bits, bool wide) {
  if (sign_bits != 0) return bits_signed(to, from, 0, static_cast<unsigned>(sign_bits) - 1, wide);
  if (to != from || !wide) mov(to, from, wide);
}

void Compiler::add_number(unsigned to, unsigned left, std::int64_t value, bool wide) {
  if (value >= 0 && value < 4096) return add_immediate(to, left, static_cast<unsigned>(value), wide);
  if (value < 0 && value > -4096) return subtract_immediate(to, left, static_cast<unsigned>(-value), wide);
  mov_immediate(kScratch0, static_cast<std::uint64_t>(value));
  three(kAdd, to, left, kScratch0, wide);
}

void Compiler::shift(Operation operation, unsigned to, unsigned left, unsigned count, bool wide) {
  const unsigned last = wide ? 63 : 31;
  if (count == 0) return move(to, left, 0, wide);
  if (operation == Lsh) bits_unsigned(to, left, last + 1 - count, last - count, wide);
  else if (operation == Rsh) bits_unsigned(to, left, count, last, wide);
  else bits_signed(to, left, count, last, wide);
}

// The processor does as eBPF says: x / 0 is 0, and the smallest number divided by -1 is itself. Modulo follows from
// that.
void Compiler::divide(unsigned to, unsigned left, unsigned right, bool is_signed, bool modulo, bool wide) {
  const std::uint32_t op = is_signed ? kSdiv : kUdiv;
  if (!modulo) return three(op, to, left, right, wide);
  three(op, kScratch1, left, right, wide);
  multiply_subtract(to, kScratch1, right, left, wide);
}

void Compiler::swap(const Instruction& i, Operation operation, unsigned left) {
  const unsigned dst = kReg[i.dst()];
  if (operation == ToLittle) {
    if (i.immediate == 64) return move(dst, left, 0, true);
    return i.immediate == 32 ? mov(dst, left, false) : bits_unsigned(dst, left, 0, 15, false);
  }
  if (i.immediate != 16) return reverse(dst, left, i.immediate == 64);
  reverse16(dst, left);
  bits_unsigned(dst, dst, 0, 15, false);
}

}  // namespace ramet::jit::arm
