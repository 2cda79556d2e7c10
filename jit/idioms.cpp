#include "jit/idioms.hpp"

namespace ramet::jit {

using namespace opcode;

namespace {

bool copies(const Instruction& i) { return (i.opcode == kMov64 || i.opcode == kMov32) && i.offset == 0; }
bool loads(const Instruction& i) {
  const Operation o = form(i).operation;
  return o == Operation::Load || o == Operation::LoadSigned;
}
bool is_shift(const Instruction& i, bool wide) {
  return wide ? i.opcode == kLsh64 || i.opcode == kRsh64 : i.opcode == kLsh32 || i.opcode == kRsh32;
}

}  // namespace

Extension Idioms::find_extension(std::uint32_t at) const {
  const Instruction* i = &code_[at];
  Extension e{.dst = i->dst(), .src = i->dst(), .wide = form(*i).bytes == 8};
  const std::uint32_t moves = copies(*i);
  if (moves) e.src = (i++)->src();
  if (!follows(at + moves + 1)) return e;
  const Instruction &left = i[0], &right = i[1];
  e.is_signed = right.opcode == (e.wide ? kArsh64 : kArsh32);
  if (left.opcode != (e.wide ? kLsh64 : kLsh32) || left.dst() != e.dst || right.dst() != e.dst) return e;
  if (!e.is_signed && right.opcode != (e.wide ? kRsh64 : kRsh32)) return e;
  e.left = static_cast<unsigned>(left.immediate);
  e.right = static_cast<unsigned>(right.immediate);
  e.taken = moves + 2;
  return e;
}

// t = s, t >>= k, [d = s] d <<= width - k, d |= t (or t |= d), the shifts in any order, where the one of d and t that
// is not the result is dead.
Rotation Idioms::find_rotation(std::uint32_t at) const {
  const Instruction &move = code_[at], &one = code_[at + 1];
  Rotation found{.src = move.src(), .wide = move.opcode == kMov64};
  const unsigned t = move.dst(), s = move.src();
  if (t == s || !is_shift(one, found.wide) || one.dst() != t || !follows(at + 2)) return found;
  std::uint32_t next = at + 2;
  unsigned d = s;
  if (copies(code_[next])) {
    d = code_[next].dst();
    if (code_[next].opcode != move.opcode || code_[next].src() != s || d == t || d == s) return found;
    ++next;
  }
  if (!follows(next) || !follows(next + 1)) return found;
  const Instruction &other = code_[next], &join = code_[next + 1];
  const int width = found.wide ? 64 : 32;
  if (!is_shift(other, found.wide) || other.opcode == one.opcode || other.dst() != d ||
      one.immediate + other.immediate != width)
    return found;
  if (join.opcode != (found.wide ? kOr64 : kOr32)) return found;
  found.dst = join.dst();
  const unsigned rest = join.src();
  if (!((found.dst == d && rest == t) || (found.dst == t && rest == d)) || !alive_.dead_after(next + 1, rest))
    return found;
  const bool first_is_left = one.opcode == kLsh64 || one.opcode == kLsh32;
  found.left = static_cast<unsigned>(first_is_left ? one.immediate : other.immediate);
  found.taken = next + 2 - at;
  return found;
}

Sum Idioms::find_sum(std::uint32_t at) const {
  Sum s{.dst = code_[at].dst(), .src = code_[at].dst()};
  std::uint32_t next = at;
  if (code_[next].opcode == kMov64) s.src = code_[next++].src();
  const auto is = [&](unsigned opcode) {
    return (next == at || follows(next)) && code_[next].opcode == opcode && code_[next].dst() == s.dst;
  };
  if (is(kLsh64) && code_[next].immediate <= 3) s.shift = static_cast<unsigned>(code_[next++].immediate);
  if (is(kAdd64) && code_[next].src() != s.dst) s.added = code_[next++].src();
  s.taken = end_of_sum(s, at, next) - at;
  return s;
}

Sum Idioms::find_scaled_sum(std::uint32_t at) const {
  const Instruction &shift = code_[at], &first = code_[at + 1], &add = code_[at + 2];
  Sum s{.dst = first.dst(), .src = shift.dst(), .added = first.dst(), .shift = static_cast<unsigned>(shift.immediate)};
  const bool loads_first = form(first).operation == Operation::Load;
  if (!loads_first && (first.opcode != kMov64 || first.offset != 0)) return s;
  if (s.dst == s.src || first.src() == s.src || !follows(at + 1)) return s;
  if (add.dst() != s.dst || add.src() != s.src || !alive_.dead_after(at + 2, s.src)) return s;
  if (loads_first) s.before = &first;
  else s.added = first.src();
  s.taken = end_of_sum(s, at, at + 3) - at;
  return s;
}

// Adds [d += number] [x = *(d + offset)] at `next` to the sum that begins at `at`; returns where the sum ends.
std::uint32_t Idioms::end_of_sum(Sum& s, std::uint32_t at, std::uint32_t next) const {
  if ((next == at || follows(next)) && code_[next].opcode == kAddImmediate64 && code_[next].dst() == s.dst)
    s.number = code_[next++].immediate;
  if (next == at || !follows(next) || !loads(code_[next]) || code_[next].src() != s.dst) return next;
  if (code_[next].dst() == s.dst || alive_.dead_after(next, s.dst)) s.load = &code_[next++];
  return next;
}

bool Idioms::only_used_next(std::uint32_t at) const {
  const Form &f = form(code_[at]), &user = form(code_[at + 1]);
  const unsigned reg = code_[at].dst();
  const Operation o = user.operation;
  const bool takes_memory = o == Operation::Add || o == Operation::Sub || o == Operation::Mul || o == Operation::Or ||
                            o == Operation::And || o == Operation::Xor;
  if (!takes_memory || user.operand != Operand::Register || user.bytes != f.bytes || f.operation != Operation::Load)
    return false;
  return code_[at + 1].dst() != reg && follows(at + 1) && alive_.dead_after(at + 1, reg);
}

}  // namespace ramet::jit
