// Arithmetic except division.
#include <bit>

#include "jit/x86_64/compiler.hpp"

namespace ramet::jit::x86 {

using enum Operation;

namespace {

unsigned shift_digit(Operation o) { return o == Lsh ? 4 : o == Rsh ? 5 : 7; }

}  // namespace

void Compiler::arithmetic(const Instruction& i, const Form& f) {
  switch (f.operation) {
    case ToLittle:
    case ToBig:
    case Swap: return swap(i, f.operation);
    case Neg: return one({.bytes = 0xf7, .wide = f.bytes == 8}, 3, kReg[i.dst()]);
    default: f.operand == Operand::Register ? with_register(i, f) : with_immediate(i, f);
  }
}

void Compiler::with_immediate(const Instruction& i, const Form& f) {
  const unsigned dst = kReg[i.dst()];
  const bool wide = f.bytes == 8;
  switch (f.operation) {
    case Mov: return mov_immediate(dst, number_of(i, wide));
    case Mul: return multiply(dst, i.immediate, wide);
    case Div:
    case Mod: return divide_by_immediate(i, f);
    case Lsh:
    case Rsh:
    case Arsh:
      if (i.immediate != 0) {
        shift(shift_digit(f.operation), dst, static_cast<unsigned>(i.immediate), wide);
        flags_are_of(i.dst(), wide);
      } else if (!wide) {
        mov(dst, dst, false);
      }
      return;
    case And:
      if (i.immediate != 0xff && i.immediate != 0xffff) break;
      return extend_zero(dst, dst, i.immediate == 0xff ? 8 : 16);
    case Xor:
      if (i.immediate != -1) break;
      return one({.bytes = 0xf7, .wide = wide}, 2, dst);
    default: break;
  }
  // A mask without a sign clears the upper half by itself.
  immediate(digit_of(f.operation), dst, i.immediate, wide && !(f.operation == And && i.immediate >= 0));
  flags_are_of(i.dst(), wide);
}

void Compiler::with_register(const Instruction& i, const Form& f) {
  const unsigned dst = kReg[i.dst()], src = kReg[i.src()];
  const bool wide = f.bytes == 8;
  switch (f.operation) {
    case Mov: {
      const bool flags_stay = flags_until_ == at_ && flags_of_ != i.dst();
      move(dst, src, i.offset, wide);
      if (flags_stay) flags_until_ = at_;
      return;
    }
    case Div:
    case Mod: return divide_by_register(i, f);
    case Lsh:
    case Rsh:
    case Arsh: return shift_by_register(shift_digit(f.operation), dst, src, wide);
    default: return operate(i, src);
  }
}

// dst OPERATION= a register of the processor, which need not be one of eBPF's.
void Compiler::operate(const Instruction& i, unsigned src) {
  const Form& f = form(i);
  const bool wide = f.bytes == 8;
  const unsigned dst = kReg[i.dst()];
  if (f.operation == Mul) return registers({.bytes = 0xaf0f, .length = 2, .wide = wide}, dst, src);
  registers({.bytes = digit_of(f.operation) << 3 | 1, .wide = wide}, src, dst);
  flags_are_of(i.dst(), wide);
}

void Compiler::move(unsigned to, unsigned from, int sign_bits, bool wide) {
  switch (sign_bits) {
    case 8: return registers({.bytes = 0xbe0f, .length = 2, .wide = wide, .byte_register = true}, to, from);
    case 16: return registers({.bytes = 0xbf0f, .length = 2, .wide = wide}, to, from);
    case 32: return registers({.bytes = 0x63, .wide = true}, to, from);
    default:
      if (to != from || !wide) mov(to, from, wide);
  }
}

void Compiler::extend_zero(unsigned to, unsigned from, unsigned bits) {
  if (bits == 8) registers({.bytes = 0xb60f, .length = 2, .byte_register = true}, to, from);
  else if (bits == 16) registers({.bytes = 0xb70f, .length = 2}, to, from);
  else mov(to, from, false);
}

void Compiler::multiply(unsigned dst, std::int32_t value, bool wide) {
  if (value > 1 && std::has_single_bit(static_cast<std::uint32_t>(value)))
    return shift(4, dst, static_cast<unsigned>(std::countr_zero(static_cast<std::uint32_t>(value))), wide);
  if (value == 3 || value == 5 || value == 9)
    return memory({.bytes = 0x8d, .wide = wide}, dst,
                  {.base = dst,
                   .index = dst,
                   .scale = static_cast<unsigned>(std::bit_width(static_cast<std::uint32_t>(value)) - 1)});
  registers({.bytes = fits8(value) ? 0x6bu : 0x69u, .wide = wide}, dst, dst);
  put(static_cast<std::uint32_t>(value), fits8(value) ? 1 : 4);
}

// The processor takes the count in rcx, which is r4: unless the count is there already, rcx is saved and restored.
void Compiler::shift_by_register(unsigned digit, unsigned dst, unsigned src, bool wide) {
  if (src == rcx) return one({.bytes = 0xd3, .wide = wide}, digit, dst);
  mov(kScratch2, rcx, true);
  mov(rcx, src, false);
  one({.bytes = 0xd3, .wide = wide}, digit, dst == rcx ? kScratch2 : dst);
  mov(rcx, kScratch2, true);
}

void Compiler::swap(const Instruction& i, Operation operation) {
  const unsigned dst = kReg[i.dst()];
  if (operation != ToLittle) {
    if (i.immediate == 16) {
      one({.bytes = 0xc1, .half = true}, 0, dst);
      put(8, 1);
    } else {
      const bool wide = i.immediate == 64;
      if (wide || dst >= r8) put(0x40u | unsigned{wide} << 3 | dst >> 3, 1);
      put(0x0f | (0xc8u | (dst & 7)) << 8, 2);
      return;
    }
  }
  if (i.immediate != 64) extend_zero(dst, dst, static_cast<unsigned>(i.immediate));
}

}  // namespace ramet::jit::x86
