// Division and modulo. The processor's instruction uses rax and rdx, which are r0 and r3, and traps in cases for which
// eBPF defines the result: x / 0 is 0, x % 0 is x, and the smallest number divided by -1 is itself.
#include <bit>

#include "jit/x86_64/compiler.hpp"

namespace ramet::jit::x86 {

using enum Operation;

void Compiler::divide_by_immediate(const Instruction& i, const Form& f) {
  const bool wide = f.bytes == 8, modulo = f.operation == Mod, is_signed = i.offset == 1;
  const unsigned dst = kReg[i.dst()];
  const auto divisor = wide ? static_cast<std::uint64_t>(std::int64_t{i.immediate})
                            : static_cast<std::uint32_t>(i.immediate);
  if (i.immediate == 0) {
    if (!modulo) mov_immediate(dst, 0);
    else if (!wide) mov(dst, dst, false);
  } else if (i.immediate == 1 || (is_signed && i.immediate == -1)) {
    if (modulo) mov_immediate(dst, 0);
    else if (i.immediate < 0) one({.bytes = 0xf7, .wide = wide}, 3, dst);
    else if (!wide) mov(dst, dst, false);
  } else if (!is_signed && i.immediate > 0 && std::has_single_bit(divisor)) {
    if (modulo) immediate(4, dst, i.immediate - 1, false);
    else shift(5, dst, static_cast<unsigned>(std::countr_zero(divisor)), wide);
  } else {
    mov_immediate(kScratch2, divisor);
    divide(dst, is_signed, modulo, wide);
  }
}

void Compiler::divide_by_register(const Instruction& i, const Form& f) {
  const bool wide = f.bytes == 8, modulo = f.operation == Mod, is_signed = i.offset == 1;
  const unsigned dst = kReg[i.dst()];
  mov(kScratch2, kReg[i.src()], wide);
  registers({.bytes = 0x85, .wide = wide}, kScratch2, kScratch2);
  std::uint8_t* zero = jump_ahead(kEqual);
  std::uint8_t* minus = nullptr;
  if (is_signed) {
    immediate(7, kScratch2, -1, wide);
    minus = jump_ahead(kEqual);
  }
  divide(dst, is_signed, modulo, wide);
  std::uint8_t* end = jump_ahead();
  if (is_signed) {
    land(minus);
    if (modulo) mov_immediate(dst, 0);
    else one({.bytes = 0xf7, .wide = wide}, 3, dst);
    if (modulo && wide) land(zero);  // dst stays as it is
    else {
      std::uint8_t* end_too = jump_ahead();
      land(zero);
      modulo ? mov(dst, dst, false) : mov_immediate(dst, 0);
      land(end_too);
    }
  } else {
    land(zero);
    if (!modulo) mov_immediate(dst, 0);
    else if (!wide) mov(dst, dst, false);
  }
  land(end);
}

// dst divided by kScratch2, which is neither 0 nor a -1 that overflows.
void Compiler::divide(unsigned dst, bool is_signed, bool modulo, bool wide) {
  if (dst != rax) mov(kScratch0, rax, true), mov(rax, dst, wide);
  if (dst != rdx) mov(kScratch1, rdx, true);
  if (is_signed) put(wide ? 0x9948 : 0x99, wide ? 2 : 1);
  else mov_immediate(rdx, 0);
  one({.bytes = 0xf7, .wide = wide}, is_signed ? 7 : 6, kScratch2);
  if (const unsigned result = modulo ? rdx : rax; result != dst) mov(dst, result, wide);
  if (dst != rax) mov(rax, kScratch0, true);
  if (dst != rdx) mov(rdx, kScratch1, true);
}

}  // namespace ramet::jit::x86
