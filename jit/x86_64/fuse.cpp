// Idioms as x86-64 has them.
#include "jit/x86_64/compiler.hpp"

namespace ramet::jit::x86 {

using namespace opcode;

std::uint32_t Compiler::fused(std::uint32_t at) {
  const Idioms idioms(code_, marks_, now_->end);
  if (!idioms.follows(at + 1) || code_[at + 1].dst() != code_[at].dst()) return 0;
  switch (code_[at].opcode) {
    case kMov64: case kMov32:
      if (code_[at].offset != 0) return 0;
      if (const Rotation r = idioms.rotation(at); r.taken != 0) return rotate(r);
      if (code_[at].opcode == kMov32) return 0;
      [[fallthrough]];
    case kLsh64:
      if (const std::uint32_t taken = extend(idioms.extension(at))) return taken;
      return add(idioms.sum(at));
    case kAdd64: case kAddImmediate64: return add(idioms.sum(at));
    default: return 0;
  }
}

// A longer shift back after d <<= 32 is one of 32 bits.
std::uint32_t Compiler::extend(const Extension& e) {
  const unsigned to = kReg[e.dst], from = kReg[e.src];
  if (e.taken == 0) return 0;
  if (e.left == 32 && e.right > 32 && !e.is_signed) {
    if (to != from) mov(to, from, false);
    shift(5, to, e.right - 32, false);
    return e.taken;
  }
  if (e.left != e.right) return 0;
  switch (e.left) {
    case 32: e.is_signed ? move(to, from, 32, true) : mov(to, from, false); return e.taken;
    case 48: e.is_signed ? move(to, from, 16, true) : registers({.bytes = 0xb70f, .length = 2}, to, from); return e.taken;
    case 56: e.is_signed ? move(to, from, 8, true) : registers({.bytes = 0xb60f, .length = 2, .byte_register = true}, to, from); return e.taken;
    default: return 0;
  }
}

std::uint32_t Compiler::rotate(const Rotation& r) {
  if (r.dst != r.src) mov(kReg[r.dst], kReg[r.src], r.wide);
  shift(0, kReg[r.dst], r.left, r.wide);
  return r.taken;
}

std::uint32_t Compiler::add(const Sum& s) {
  Address a{.base = kReg[s.src], .displacement = s.number};
  const bool added = s.added != Sum::kNone;
  if (s.shift != 0) {
    a.index = a.base, a.scale = s.shift;
    a.base = added ? kReg[s.added] : Address::kNone;
  } else if (added) {
    a.index = kReg[s.added];
  }
  if (s.load && fits32(std::int64_t{s.number} + s.load->offset) && (a.base != Address::kNone || s.taken > 2)) {
    a.displacement += s.load->offset;
    load(kReg[s.dst], a, form(*s.load).operation, form(*s.load).bytes);
    return s.taken;
  }
  const std::uint32_t sums = s.taken - (s.load ? 1 : 0);
  const bool scaled_alone = a.base == Address::kNone && a.displacement == 0;
  if (sums < 2 || scaled_alone) return 0;
  memory({.bytes = 0x8d, .wide = true}, kReg[s.dst], a);
  return sums;
}

}  // namespace ramet::jit::x86
