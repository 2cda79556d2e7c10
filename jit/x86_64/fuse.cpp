// Idioms that are one or two instructions of x86-64.
#include <utility>

#include "jit/x86_64/compiler.hpp"

namespace ramet::jit::x86 {

using namespace opcode;

std::uint32_t Compiler::fused(std::uint32_t at) {
  const std::uint8_t opcode = code_[at].opcode;
  if (opcode == kLsh64)
    if (const std::uint32_t taken = add(at, idioms_.scaled_sum(at))) return taken;
  if (code_[at + 1].dst() != code_[at].dst() || !idioms_.follows(at + 1)) return 0;
  switch (opcode) {
    case kMov64:
    case kMov32:
      if (code_[at].offset != 0) return 0;
      if (const Rotation r = idioms_.rotation(at); r.taken != 0) return rotate(r);
      if (const std::uint32_t taken = extend(idioms_.extension(at))) return taken;
      if (opcode == kMov64)
        if (const std::uint32_t taken = add(at, idioms_.sum(at))) return taken;
      return three_operands(at);
    case kLsh32: return extend(idioms_.extension(at));
    case kLsh64:
      if (const std::uint32_t taken = extend(idioms_.extension(at))) return taken;
      [[fallthrough]];
    case kAdd64:
    case kAddImmediate64: return add(at, idioms_.sum(at));
    default: return 0;
  }
}

// Two equal shifts are an extension. After d <<= 32, a longer shift to the right is one shift of 32 bits.
std::uint32_t Compiler::extend(const Extension& e) {
  const unsigned to = kReg[e.dst], from = kReg[e.src];
  if (e.taken == 0) return 0;
  if (e.wide && e.left == 32 && e.right > 32 && !e.is_signed) {
    if (to != from) mov(to, from, false);
    shift(5, to, e.right - 32, false);
    return e.taken;
  }
  const unsigned bits = (e.wide ? 64 : 32) - e.left;
  if (e.left != e.right || (bits != 8 && bits != 16 && (bits != 32 || !e.wide))) return 0;
  if (e.is_signed) move(to, from, static_cast<int>(bits), e.wide);
  else extend_zero(to, from, bits);
  return e.taken;
}

std::uint32_t Compiler::rotate(const Rotation& r) {
  if (r.dst != r.src) mov(kReg[r.dst], kReg[r.src], r.wide);
  shift(0, kReg[r.dst], r.left, r.wide);
  return r.taken;
}

std::uint32_t Compiler::add(std::uint32_t at, const Sum& s) {
  const std::uint32_t sums = s.taken - (s.load ? 1 : 0);
  const unsigned slot = s.before ? slot_of(*s.before) : Slots::kNone;
  const unsigned added = slot != Slots::kNone ? slot : s.added != Sum::kNone ? kReg[s.added] : Address::kNone;
  Address a{.base = kReg[s.src], .index = added, .displacement = s.number};
  if (s.shift != 0) {
    std::swap(a.base, a.index);
    a.scale = s.shift;
  }
  const bool loads = s.load && fits32(std::int64_t{s.number} + s.load->offset) &&
                     (a.base != Address::kNone || s.taken > 2);
  const bool scaled_alone = a.base == Address::kNone && a.displacement == 0;
  if (!loads && (sums < 2 || scaled_alone)) return 0;
  if (s.before && slot == Slots::kNone)
    load(kReg[s.before->dst()], {.base = kReg[s.before->src()], .displacement = s.before->offset}, form(*s.before));
  if (loads) {
    a.displacement += s.load->offset;
    return sums + load_or_use(at + sums, a);
  }
  memory({.bytes = 0x8d, .wide = true}, kReg[s.dst], a);
  return sums;
}

// d = s, d OPERATION= operand, if the processor has an instruction with three operands for that.
std::uint32_t Compiler::three_operands(std::uint32_t at) {
  const Instruction &move = code_[at], &next = code_[at + 1];
  const Form& f = form(next);
  const bool wide = move.opcode == kMov64;
  const unsigned to = kReg[next.dst()], from = kReg[move.src()];
  if ((f.bytes == 8) != wide) return 0;
  if (f.operation == Operation::Add) {
    if (f.operand == Operand::Immediate) memory({.bytes = 0x8d, .wide = wide}, to, from, next.immediate);
    else if (next.src() != next.dst())
      memory({.bytes = 0x8d, .wide = wide}, to, {.base = from, .index = kReg[next.src()]});
    else return 0;
    return 2;
  }
  if (f.operation == Operation::And && f.operand == Operand::Immediate &&
      (next.immediate == 0xff || next.immediate == 0xffff)) {
    extend_zero(to, from, next.immediate == 0xff ? 8 : 16);
    return 2;
  }
  return 0;
}

}  // namespace ramet::jit::x86
