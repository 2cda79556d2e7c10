// Loads, stores and atomic operations.
#include "jit/x86_64/compiler.hpp"

namespace ramet::jit::x86 {

using enum Operation;

std::uint32_t Compiler::load(std::uint32_t at, const Instruction& i, const Form& f) {
  const unsigned slot = slot_of(i);
  if (slot == Slots::kNone) return load_or_use(at, {.base = kReg[i.src()], .displacement = i.offset});
  const Instruction* user = idioms_.only_user(at);
  if (!user) {
    mov(kReg[i.dst()], slot, f.bytes == 8);
    return 1;
  }
  operate(*user, slot);
  return 2;
}

// Loads; if only the next instruction uses the value, writes that instruction with a memory operand instead.
std::uint32_t Compiler::load_or_use(std::uint32_t at, const Address& from) {
  const Form& f = form(code_[at]);
  if (const Instruction* user = idioms_.only_user(at)) {
    const bool wide = f.bytes == 8;
    const unsigned dst = kReg[user->dst()];
    if (form(*user).operation == Mul) {
      memory({.bytes = 0xaf0f, .length = 2, .wide = wide}, dst, from);
    } else {
      memory({.bytes = digit_of(form(*user).operation) << 3 | 3, .wide = wide}, dst, from);
      flags_are_of(user->dst(), wide);
    }
    return 2;
  }
  load(kReg[code_[at].dst()], from, f);
  return 1;
}

void Compiler::load(unsigned dst, const Address& from, const Form& f) {
  if (f.operation == LoadSigned) {
    switch (f.bytes) {
      case 1: return memory({.bytes = 0xbe0f, .length = 2, .wide = true}, dst, from);
      case 2: return memory({.bytes = 0xbf0f, .length = 2, .wide = true}, dst, from);
      default: return memory({.bytes = 0x63, .wide = true}, dst, from);
    }
  }
  switch (f.bytes) {
    case 1: return memory({.bytes = 0xb60f, .length = 2}, dst, from);
    case 2: return memory({.bytes = 0xb70f, .length = 2}, dst, from);
    default: return memory({.bytes = 0x8b, .wide = f.bytes == 8}, dst, from);
  }
}

void Compiler::store(const Instruction& i, const Form& f) {
  const unsigned base = kReg[i.dst()];
  const bool number = f.operation == StoreImmediate, byte = f.bytes == 1;
  if (i.dst() == kFramePointer)
    if (const unsigned slot = slots_.at(i.offset))
      return number ? mov_immediate(slot, number_of(i, f.bytes == 8)) : mov(slot, kReg[i.src()], f.bytes == 8);
  const Op op{.bytes = (number ? 0xc6u : 0x88u) | unsigned{!byte},
              .wide = f.bytes == 8,
              .half = f.bytes == 2,
              .byte_register = byte && !number};
  memory(op, number ? 0 : kReg[i.src()], base, i.offset);
  if (number) put(static_cast<std::uint32_t>(i.immediate), f.bytes == 8 ? 4 : f.bytes);
}

void Compiler::load_wide(std::uint32_t at) {
  const Instruction& i = code_[at];
  const unsigned dst = kReg[i.dst()];
  const auto first = static_cast<std::uint32_t>(i.immediate),
             second = static_cast<std::uint32_t>(code_[at + 1].immediate);
  const auto address = [&](Relocation::Kind kind, std::uint32_t offset) {
    mov_address(dst, 0);
    relocation(kind, first, offset, 8);
  };
  switch (static_cast<Wide>(i.src())) {
    case Wide::Number: return mov_immediate(dst, std::uint64_t{second} << 32 | first);
    case Wide::Map:
    case Wide::MapByIndex: return address(Relocation::Kind::Map, 0);
    case Wide::MapValue:
    case Wide::MapValueByIndex: return address(Relocation::Kind::MapValue, second);
    case Wide::Variable: return address(Relocation::Kind::Variable, 0);
    case Wide::Function:  // lea dst, [rip + rel32]
      put((0x48u | dst >> 3 << 2) | 0x8d00u | (0x05u | (dst & 7) << 3) << 16, 7);
      return to_function(Displacement::Word, here() - 4,
                         static_cast<std::uint32_t>(at + std::int64_t{1} + i.immediate));
  }
}

void Compiler::atomic_one(const Instruction& i, bool wide) {
  const unsigned src = kReg[i.src()], base = kReg[i.dst()];
  const auto locked = [&](unsigned opcode, unsigned length) {
    memory({.bytes = opcode, .length = static_cast<std::uint8_t>(length), .wide = wide, .lock = true}, src, base,
           i.offset);
  };
  switch (i.immediate) {
    case atomic::kAdd: return locked(0x01, 1);
    case atomic::kOr: return locked(0x09, 1);
    case atomic::kAnd: return locked(0x21, 1);
    case atomic::kXor: return locked(0x31, 1);
    case atomic::kAdd | atomic::kFetch: return locked(0xc10f, 2);
    case atomic::kExchange: return memory({.bytes = 0x87, .wide = wide}, src, base, i.offset);
    case atomic::kCompareExchange:  // with rax, which is r0
      locked(0xb10f, 2);
      if (!wide) mov(rax, rax, false);  // on success the processor leaves rax's upper half as it was
      return;
    default: return fetch_by_exchange(i, wide);
  }
}

// The processor has no atomic and, or, xor that returns the old value: a loop of compare-and-exchange does it. That
// compares with rax, which may be the address or the operand as well, so r9 holds its value meanwhile.
void Compiler::fetch_by_exchange(const Instruction& i, bool wide) {
  const unsigned src = kReg[i.src()];
  const unsigned base = i.dst() == 0 ? kScratch0 : kReg[i.dst()], value = i.src() == 0 ? kScratch0 : src;
  const int plain = i.immediate & ~atomic::kFetch;
  const unsigned opcode = plain == atomic::kOr ? 0x09 : plain == atomic::kAnd ? 0x21 : 0x31;
  mov(kScratch0, rax, true);
  memory({.bytes = 0x8b, .wide = wide}, rax, base, i.offset);
  const std::uint8_t* again = at_;
  mov(kScratch2, rax, wide);
  registers({.bytes = opcode, .wide = wide}, value, kScratch2);
  memory({.bytes = 0xb10f, .length = 2, .wide = wide, .lock = true}, kScratch2, base, i.offset);
  put(0x70u | kNotEqual | std::uint64_t(static_cast<std::uint8_t>(again - at_ - 2)) << 8, 2);
  if (i.src() == 0) return;
  mov(src, rax, wide);
  mov(rax, kScratch0, true);
}

// r0 = the big-endian value at that offset of the input; an offset outside the input ends the program with r0 = 0.
void Compiler::packet(const Instruction& i, const Form& f) {
  const std::int32_t frame = static_cast<std::int32_t>(frame_);
  if (f.operation == PacketAbsolute) mov_immediate(kScratch0, static_cast<std::uint32_t>(i.immediate));
  else memory({.bytes = 0x8d}, kScratch0, kReg[i.src()], i.immediate);
  memory({.bytes = 0x8d, .wide = true}, kScratch1, kScratch0, f.bytes);
  memory({.bytes = 0x3b, .wide = true}, kScratch1, rbp, 8 - frame);
  std::uint8_t* inside = jump_ahead(kBelowEqual);
  mov_immediate(rax, 0);
  leave();
  land(inside);
  memory({.bytes = 0x8b, .wide = true}, kScratch2, rbp, -frame);
  load(rax, {.base = kScratch2, .index = kScratch0}, f);
  if (f.bytes == 2) put(0x08c0c166, 4);  // rol ax, 8
  else if (f.bytes == 4) put(0xc80f, 2);  // bswap eax
}

}  // namespace ramet::jit::x86
