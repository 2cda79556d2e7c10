#include "jit/idioms.hpp"

namespace ramet::jit {

using namespace opcode;

namespace {

constexpr unsigned kFarthest = 32;  // instructions that are looked at to find out that a register is dead

bool is_move(const Instruction& i) { return (i.opcode == kMov64 || i.opcode == kMov32) && i.offset == 0; }
bool is_shift(const Instruction& i, bool wide) { return wide ? i.opcode == kLsh64 || i.opcode == kRsh64 : i.opcode == kLsh32 || i.opcode == kRsh32; }

}  // namespace

Extension Idioms::find_extension(std::uint32_t at) const {
  Extension e{.dst = code_[at].dst(), .src = code_[at].dst()};
  const std::uint32_t begin = at;
  if (code_[at].opcode == kMov64) e.src = code_[at++].src();
  if (!follows(at + 1)) return e;
  const Instruction &left = code_[at], &right = code_[at + 1];
  e.is_signed = right.opcode == kArsh64;
  if (left.opcode != kLsh64 || left.dst() != e.dst || right.dst() != e.dst || (right.opcode != kRsh64 && !e.is_signed)) return e;
  e.left = static_cast<unsigned>(left.immediate);
  e.right = static_cast<unsigned>(right.immediate);
  e.taken = at + 2 - begin;
  return e;
}

// t = s, t >>= k, [d = s] d <<= width - k, d |= t (or t |= d), the shifts in any order, where the other of d and t is not
// used any more.
Rotation Idioms::find_rotation(std::uint32_t at) const {
  const Instruction &move = code_[at], &one = code_[at + 1];
  Rotation found{.src = move.src(), .wide = move.opcode == kMov64};
  const unsigned t = move.dst(), s = move.src();
  if (t == s || !is_shift(one, found.wide) || one.dst() != t || !follows(at + 2)) return found;
  std::uint32_t next = at + 2;
  unsigned d = s;
  if (is_move(code_[next])) {
    d = code_[next].dst();
    if (code_[next].opcode != move.opcode || code_[next].src() != s || d == t || d == s) return found;
    ++next;
  }
  if (!follows(next) || !follows(next + 1)) return found;
  const Instruction &other = code_[next], &join = code_[next + 1];
  const int width = found.wide ? 64 : 32;
  if (!is_shift(other, found.wide) || other.opcode == one.opcode || other.dst() != d || one.immediate + other.immediate != width) return found;
  if (join.opcode != (found.wide ? kOr64 : kOr32)) return found;
  found.dst = join.dst();
  const unsigned rest = join.src();
  if (!((found.dst == d && rest == t) || (found.dst == t && rest == d)) || !dead_after(next + 2, rest)) return found;
  const bool first_is_left = one.opcode == kLsh64 || one.opcode == kLsh32;
  found.left = static_cast<unsigned>(first_is_left ? one.immediate : other.immediate);
  found.taken = next + 2 - at;
  return found;
}

Sum Idioms::find_sum(std::uint32_t at) const {
  Sum s{.dst = code_[at].dst(), .src = code_[at].dst()};
  std::uint32_t next = at;
  if (code_[next].opcode == kMov64) s.src = code_[next++].src();
  const auto is = [&](unsigned opcode) { return (next == at || follows(next)) && code_[next].opcode == opcode && code_[next].dst() == s.dst; };
  if (is(kLsh64) && code_[next].immediate <= 3) s.shift = static_cast<unsigned>(code_[next++].immediate);
  if (is(kAdd64) && code_[next].src() != s.dst) s.added = code_[next++].src();
  if (is(kAddImmediate64)) s.number = code_[next++].immediate;
  if (next > at && follows(next)) {
    const Operation o = form(code_[next]).operation;
    const bool loads = o == Operation::Load || o == Operation::LoadSigned;
    if (loads && code_[next].dst() == s.dst && code_[next].src() == s.dst) s.load = &code_[next++];
  }
  s.taken = next - at;
  return s;
}

// Whether nothing reads the register from there on, as far as that can be seen at once.
bool Idioms::dead_after(std::uint32_t at, unsigned reg) const {
  for (unsigned n = 0; n < kFarthest && at < end_; ++n, ++at) {
    const Instruction& i = code_[at];
    const Form& f = form(i);
    if (f.operation == Operation::Exit) return reg != 0;
    const bool plain = is_arithmetic(f.operation) || f.operation == Operation::Load || f.operation == Operation::LoadSigned ||
                       f.operation == Operation::Store || f.operation == Operation::StoreImmediate;
    if (!plain) return false;
    if ((f.operand == Operand::Register && i.src() == reg) || (f.reads_dst && i.dst() == reg)) return false;
    if (f.writes_dst && i.dst() == reg) return true;
  }
  return false;
}

}  // namespace ramet::jit
