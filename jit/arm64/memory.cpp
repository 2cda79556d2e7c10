// Loads, stores and atomic operations.
#include <bit>

#include "jit/arm64/compiler.hpp"

namespace ramet::jit::arm {

using enum Operation;

namespace {
unsigned logarithm(unsigned bytes) { return static_cast<unsigned>(std::countr_zero(bytes)); }
}  // namespace

void Compiler::load(unsigned to, unsigned base, std::int32_t offset, const Form& f) {
  memory(f.operation == LoadSigned ? kLoadSigned : kLoad, logarithm(f.bytes), to, base, offset, kScratch0);
}

void Compiler::store(const Instruction& i, const Form& f) {
  unsigned value = kReg[i.src()];
  if (f.operation == StoreImmediate) {
    value = i.immediate == 0 ? kZero : kScratch1;
    if (i.immediate != 0) mov_immediate(value, static_cast<std::uint64_t>(std::int64_t{i.immediate}));
  }
  memory(kStore, logarithm(f.bytes), value, kReg[i.dst()], i.offset, kScratch0);
}

void Compiler::load_wide(std::uint32_t at) {
  const Instruction& i = code_[at];
  const unsigned dst = kReg[i.dst()];
  const auto first = static_cast<std::uint32_t>(i.immediate),
             second = static_cast<std::uint32_t>(code_[at + 1].immediate);
  switch (static_cast<Wide>(i.src())) {
    case Wide::Number: return mov_immediate(dst, std::uint64_t{second} << 32 | first);
    case Wide::Map:
    case Wide::MapByIndex: return address(dst, Relocation::Kind::Map, first, 0);
    case Wide::MapValue:
    case Wide::MapValueByIndex: return address(dst, Relocation::Kind::MapValue, first, second);
    case Wide::Variable: return address(dst, Relocation::Kind::Variable, first, 0);
    case Wide::Function:
      to_function(Displacement::Address, here(), static_cast<std::uint32_t>(at + std::int64_t{1} + i.immediate));
      here_address(dst);
      move_wide(kMovz, kScratch0, 0, 0, false);
      move_wide(kMovk, kScratch0, 0, 1, false);
      bits_signed(kScratch0, kScratch0, 0, 31, true);
      return three(kAdd, dst, dst, kScratch0, true);
  }
}

// Tries until no other store came between. Operations that return the old value are full barriers, as on Linux. No
// register of the program changes before the store has succeeded.
void Compiler::atomic_one(const Instruction& i, bool wide) {
  const unsigned src = kReg[i.src()];
  unsigned at = kReg[i.dst()];
  if (i.offset != 0) add_number(kScratch3, at, i.offset, true), at = kScratch3;
  const std::uint8_t* again = at_;
  load_exclusive(kScratch1, at, wide);
  unsigned stored = src;
  std::uint8_t* differs = nullptr;
  switch (i.immediate & ~atomic::kFetch) {
    case atomic::kAdd: three(kAdd, stored = kScratch2, kScratch1, src, wide); break;
    case atomic::kOr: three(kOr, stored = kScratch2, kScratch1, src, wide); break;
    case atomic::kAnd: three(kAnd, stored = kScratch2, kScratch1, src, wide); break;
    case atomic::kXor: three(kXor, stored = kScratch2, kScratch1, src, wide); break;
    default:
      if (i.immediate != atomic::kCompareExchange) break;
      three(kSubFlags, kZero, kScratch1, kReg[0], wide);
      differs = at_;
      branch_if(kNotEqual, 3);  // over the store and its test
  }
  store_release_exclusive(kScratch0, stored, at, wide);
  branch_zero(false, kScratch0, (again - at_) / 4, false);
  if (!(i.immediate & atomic::kFetch)) return;
  barrier();
  mov(differs ? kReg[0] : src, kScratch1, true);
}

// r0 = the big-endian value at that offset of the input; an offset outside the input ends the program with r0 = 0.
void Compiler::packet(const Instruction& i, const Form& f) {
  mov_immediate(kScratch0, static_cast<std::uint32_t>(i.immediate));
  if (f.operation == PacketIndirect) three(kAdd, kScratch0, kScratch0, kReg[i.src()], false);
  memory(kLoad, 3, kScratch1, kSp, 8, kScratch2);
  add_immediate(kScratch2, kScratch0, f.bytes, true);
  three(kSubFlags, kZero, kScratch2, kScratch1, true);
  std::uint8_t* jump = at_;
  branch_if(kLowerSame, 0);
  mov_immediate(kReg[0], 0);
  leave();
  std::uint8_t* inside = at_;
  at_ = jump;
  branch_if(kLowerSame, (inside - jump) / 4);
  at_ = inside;
  memory(kLoad, 3, kScratch1, kSp, 0, kScratch2);
  indexed(kLoad, logarithm(f.bytes), kReg[0], kScratch1, kScratch0, false);
  if (f.bytes == 2) reverse16(kReg[0], kReg[0]);
  else if (f.bytes == 4) reverse(kReg[0], kReg[0], false);
}

}  // namespace ramet::jit::arm
