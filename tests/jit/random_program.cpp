#include "tests/jit/random_program.hpp"

#include <algorithm>
#include <array>

#include "tests/jit/assembler.hpp"

namespace ramet::jit::test {
namespace {

constexpr std::int32_t kEdges[] = {0,           1,          -1,         2,
                                   3,           7,          8,          15,
                                   16,          31,         32,         63,
                                   64,          126,        127,        128,
                                   129,         -2,         -127,       -128,
                                   -129,        -130,       254,        255,
                                   256,         257,        4095,       4096,
                                   4097,        -4096,      32766,      32767,
                                   32768,       -32767,     -32768,     -32769,
                                   65534,       65535,      65536,      -65535,
                                   -65536,      0x7fffffff, 0x7ffffffe, -0x7fffffff - 1,
                                   -0x7fffffff, 0x00ff00ff, 0x0ffffff0, 0x55555555};
constexpr unsigned kSlots = 8;   // of a function's stack that are set before anything reads them
constexpr unsigned kLoops = 4;   // of a function, each with a slot after those for what is left of its rounds
constexpr unsigned kHalves = 4;  // slots of four bytes after those

class Maker {
 public:
  Maker(const Decide& decide, unsigned units) : decide_(decide), units_(units) {}

  Program run() {
    functions_ = 1 + below(3);
    for (unsigned f = 0; f < functions_; ++f) {
      starts_.push_back(code_.size());
      function(f);
    }
    for (const auto [at, callee] : calls_) code_[at].immediate = static_cast<std::int32_t>(starts_[callee] - at - 1);
    Program program;
    program.instructions = std::move(code_);
    program.maps = 1;
    return program;
  }

 private:
  unsigned below(unsigned n) { return decide_() % n; }
  unsigned reg() { return below(10); }
  std::int32_t number() {
    return below(4) == 0 ? static_cast<std::int32_t>(decide_()) : kEdges[below(std::size(kEdges))];
  }
  void emit(const Instruction& i) { code_.push_back(i); }

  void function(unsigned f) {
    now_ = f;
    jumps_.clear();
    units_at_.clear();
    if (f == 0)
      for (unsigned r = 0; r < 10; ++r)
        if (r != 1 && r != 2) set(r);
    for (unsigned s = 1; s <= kSlots; ++s) emit(store_immediate(kDw, 10, -8 * int(s), number()));
    deep_ = below(2), whole_ = below(2), simple_ = below(2);
    if (deep_) emit(store_immediate(kDw, 10, -512, number()));
    for (unsigned h = 1; h <= kHalves; ++h) emit(store_immediate(kW, 10, half_slot(h), number()));
    loops_ = 0;
    for (unsigned l = 1; l <= kLoops; ++l) emit(store_immediate(kDw, 10, loop_slot(l), std::int32_t(below(4))));
    const unsigned count = 1 + below(units_);
    for (unsigned u = 0; u < count; ++u) {
      units_at_.push_back(code_.size());
      unit();
    }
    units_at_.push_back(code_.size());
    land();
    if (f == 0) keep_registers();
    emit(leave());
  }

  void set(unsigned r) {
    if (below(2)) emit(mov(r, number()));
    else wide(code_, r, 0, std::uint64_t{decide_()} << 32 | static_cast<std::uint32_t>(number()));
  }

  void unit() {
    switch (below(16)) {
      case 0:
      case 1: return by_immediate();
      case 2:
      case 3:
      case 4: return by_register();
      case 5: return special();
      case 6:
      case 7: return memory();
      case 8: return stack();
      case 9: return atomic_unit();
      case 10: return branch();
      case 11: return below(4) == 0 ? back() : branch();
      case 12: return idiom();
      case 13: return below(3) == 0 ? call_unit() : idiom();
      case 14: return below(8) == 0 ? filler() : set(reg());
      default: return below(4) == 0 ? packet() : branch();
    }
  }

  Alu operation() {
    if (simple_) return operation_but_division();
    constexpr Alu kAll[] = {kAdd, kSub, kMul, kDiv, kOr, kAnd, kLsh, kRsh, kMod, kXor, kMov, kArsh};
    return kAll[below(std::size(kAll))];
  }
  Alu operation_but_division() {
    constexpr Alu kAll[] = {kAdd, kSub, kMul, kOr, kAnd, kXor, kMov, kLsh, kRsh, kArsh};
    return kAll[below(std::size(kAll))];
  }
  Alu operation_but_shifts() {
    constexpr Alu kAll[] = {kAdd, kSub, kMul, kOr, kAnd, kXor, kDiv};
    return kAll[below(std::size(kAll) - simple_)];
  }
  void by_immediate() {
    const Alu o = operation();
    const bool wide = below(2);
    std::int32_t n = number();
    if ((o == kLsh || o == kRsh || o == kArsh) && below(8) != 0) n = static_cast<std::int32_t>(below(wide ? 64 : 32));
    const int variant = (o == kDiv || o == kMod) ? int(below(2)) : 0;
    emit(raw(o | (wide ? 7u : 4u), reg(), 0, variant, n));
  }
  void by_register() {
    const Alu o = operation();
    const bool wide = below(2);
    int variant = (o == kDiv || o == kMod) ? int(below(2)) : 0;
    if (o == kMov) variant = int(std::array<unsigned, 4>{0, 8, 16, wide ? 32u : 0u}[below(4)]);
    emit(raw(o | (wide ? 0xfu : 0xcu), reg(), reg(), variant));
  }
  void special() {
    constexpr unsigned kSwaps[] = {0xd4, 0xdc, 0xd7};
    if (below(4) == 0) emit(raw(below(2) ? 0x87 : 0x84, reg()));
    else emit(raw(kSwaps[below(3)], reg(), 0, 0, std::int32_t(16u << below(3))));
  }

  // The register then has an address `offset` below `at` bytes into the buffer.
  void point(unsigned r, unsigned at, int offset) {
    emit(raw(0x18, r, below(2) ? 2 : 6));
    emit(raw(0, 0, 0, 0, static_cast<std::int32_t>(at - unsigned(offset))));
  }
  int offset() { return below(2) ? int(below(3)) * 8 : static_cast<std::int16_t>(number()); }
  Size size() { return std::array{kB, kH, kW, kDw}[below(4)]; }
  static unsigned bytes(Size s) { return s == kB ? 1 : s == kH ? 2 : s == kW ? 4 : 8; }
  unsigned place(Size s) { return below(kRegistersAt - bytes(s)); }

  void memory() {
    const Size s = size();
    const unsigned base = reg(), other = reg();
    const int at = offset();
    point(base, place(s), at);
    switch (below(5)) {
      case 0: return emit(load(s, other, base, at));
      case 1: return emit(s == kDw ? load(s, other, base, at) : load_signed(s, other, base, at));
      case 2: return emit(store_immediate(s, base, at, number()));
      case 3: return emit(load(s, base, base, at));
      default: return emit(store(s, base, at, other));
    }
  }
  void stack() {
    const auto [s, at] = slot();
    if (deep_ && below(8) == 0) return emit(load(s, reg(), 10, -512));
    switch (whole_ ? below(2) * 3 : below(4)) {
      case 0: return emit(load(s, reg(), 10, at));
      case 1: return emit(store_immediate(s, 10, at, number()));
      case 2: {  // by a copy of r10, which the program must not keep
        const unsigned r = reg();
        emit(mov_r(r, 10));
        if (below(2)) emit(alu(kAdd, r, at)), emit(load(s, r, r, 0));
        else emit(load(s, r, r, at));
        return;
      }
      default: return emit(store(s, 10, at, reg()));
    }
  }
  // A place of the stack and what is used of it: all, in functions that have it so and may so have it in a register.
  std::pair<Size, int> slot() {
    if (!whole_) return {size(), -int(1 + below(kSlots)) * 8};
    if (below(3) == 0) return {kW, half_slot(1 + below(kHalves))};
    return {kDw, -int(1 + below(kSlots)) * 8};
  }
  static int half_slot(unsigned half) { return -8 * int(kSlots + kLoops) - 4 * int(half); }
  void atomic_unit() {
    if (simple_) return stack();
    constexpr std::int32_t kAll[] = {atomic::kAdd,
                                     atomic::kOr,
                                     atomic::kAnd,
                                     atomic::kXor,
                                     atomic::kAdd | 1,
                                     atomic::kOr | 1,
                                     atomic::kAnd | 1,
                                     atomic::kXor | 1,
                                     atomic::kExchange,
                                     atomic::kCompareExchange,
                                     atomic::kCompareExchange};
    const Size s = below(2) ? kW : kDw;
    const unsigned base = reg(), source = below(4) == 0 ? base : reg();
    const unsigned at = place(s) & ~7u;
    const std::int32_t operation = kAll[below(std::size(kAll))];
    const int displacement = offset();
    if (operation == atomic::kCompareExchange && base != 0 && below(2)) {  // one that succeeds
      point(base, at, 0);
      emit(load(s, 0, base, 0));
      if (s == kW && below(2)) emit(alu_r(kOr, 0, base));
    }
    point(base, at, displacement);
    emit(test::atomic(s, operation, base, displacement, source));
  }

  void branch() {
    constexpr If kAll[] = {kEq, kGt, kGe, kSet, kNe, kSgt, kSge, kLt, kLe, kSlt, kSle};
    const bool by_register = below(2), narrow = below(2);
    jumps_.push_back(code_.size());
    if (below(8) == 0) return emit(below(2) ? jump(0) : jump_long(0));
    emit(raw(kAll[below(std::size(kAll))] | (narrow ? 6u : 5u) | (by_register ? 8u : 0u), reg(),
             by_register ? reg() : 0, 0, by_register ? 0 : number()));
  }
  // Forward to a unit of this function; the end is one.
  void land() {
    for (const std::size_t at : jumps_) {
      const auto next = std::ranges::upper_bound(units_at_, at) - units_at_.begin();
      const std::size_t most = std::min<std::size_t>(units_at_.size() - static_cast<std::size_t>(next),
                                                     below(4) == 0 ? 1000 : 6);
      const std::size_t target = units_at_[static_cast<std::size_t>(next) + below(static_cast<unsigned>(most))];
      const auto distance = static_cast<std::int32_t>(target - at - 1);
      if (code_[at].opcode == opcode::kJumpLong) code_[at].immediate = distance;
      else code_[at].offset = static_cast<std::int16_t>(distance);
    }
  }

  // Back to a unit, as often as the loop's slot says; nothing sets that again.
  static int loop_slot(unsigned loop) { return -8 * int(kSlots + loop); }
  void back() {
    if (loops_ == kLoops) return branch();
    const int slot = loop_slot(++loops_);
    const unsigned r = reg();
    emit(load(kDw, r, 10, slot));
    emit(alu(kAdd, r, -1));
    emit(store(kDw, 10, slot, r));
    const std::size_t target = units_at_[below(static_cast<unsigned>(units_at_.size()))];
    emit(when(kSgt, r, 0, static_cast<int>(target) - static_cast<int>(code_.size()) - 1));
  }

  void move(bool wide, unsigned to, unsigned from) { emit(wide ? mov_r(to, from) : alu32_r(kMov, to, from)); }
  void shift(bool wide, Alu o, unsigned r, unsigned n) {
    emit(wide ? alu(o, r, std::int32_t(n)) : alu32(o, r, std::int32_t(n)));
  }

  void extension(bool wide, unsigned d, unsigned s) {
    const unsigned bits = wide ? 64 : 32, n = bits - std::array{32u, 16u, 8u, 24u}[below(4)];
    if (below(2)) move(wide, d, s);
    shift(wide, kLsh, d, n);
    shift(wide, below(2) ? kRsh : kArsh, d, below(3) == 0 ? below(bits) : n);
  }

  void rotation(bool wide, unsigned d, unsigned s, unsigned t) {
    const unsigned bits = wide ? 64 : 32, n = 1 + below(bits - 1), left = below(2);
    move(wide, t, s);
    shift(wide, left ? kLsh : kRsh, t, n);
    const unsigned to = below(2) ? d : s;
    if (to != s) move(wide, to, s);
    shift(wide, left ? kRsh : kLsh, to, below(8) == 0 ? n : bits - n);
    const bool swapped = below(3) == 0;
    emit(wide ? alu_r(kOr, swapped ? t : to, swapped ? to : t) : alu32_r(kOr, swapped ? t : to, swapped ? to : t));
    if (below(2)) set(swapped ? to : t);
  }

  // A jump around a move, or around a jump to the unit after the next.
  void jump_around(bool wide, unsigned d, unsigned s, unsigned t) {
    constexpr If kAll[] = {kEq, kGt, kSet, kNe, kSge, kLt};
    const bool by_register = below(2);
    emit(raw(kAll[below(std::size(kAll))] | (wide ? 5u : 6u) | (by_register ? 8u : 0u), d, by_register ? s : 0, 1,
             by_register ? 0 : number()));
    if (below(3) == 0) return emit(jump(0)), jumps_.push_back(code_.size() - 1);
    const bool elsewhere = below(2), jumps_back = below(2);
    if (elsewhere) code_.back().offset = jumps_back ? 3 : 2, emit(jump(0));
    if (below(2)) move(wide, t, reg());
    else emit(wide ? mov(t, number()) : alu32(kMov, t, number()));
    if (elsewhere && jumps_back) emit(jump(0));
  }

  void load_and_operate(bool wide, unsigned d, unsigned t) {
    constexpr Alu kAll[] = {kAdd, kSub, kMul, kOr, kAnd, kXor, kDiv};
    const auto [bytes, at] = slot();
    emit(load(bytes, t, 10, at));
    const Alu o = kAll[below(std::size(kAll) - simple_)];
    emit(wide ? alu_r(o, d, t) : alu32_r(o, d, t));
    if (below(2)) set(t);
  }

  // An element of an array, whose start comes from elsewhere.
  void element_from_elsewhere(unsigned d, unsigned s, unsigned t) {
    if (d == s || t == s) return;
    const int displacement = int(below(2)) * 40;
    emit(alu(kAnd, s, 63));
    if (below(2)) {
      point(d, 0, displacement);
      emit(store(kDw, 10, -8, d));
      emit(alu(kLsh, s, int(below(4))));
      emit(load(kDw, d, 10, -8));
    } else {
      if (d == t) return;
      point(t, 0, displacement);
      emit(alu(kLsh, s, int(below(4))));
      emit(mov_r(d, t));
    }
    emit(alu_r(kAdd, d, s));
    if (below(2)) emit(alu(kAdd, d, int(below(9))));
    emit(load(size(), below(2) ? d : t, d, displacement));
    if (below(2)) set(s);
    if (below(2)) set(d);
  }

  void element(unsigned d, unsigned s) {
    if (d == s) return;
    const Size z = size();
    emit(alu(kAnd, d, 63));
    const int scale = int(below(4)), displacement = int(below(2)) * 40;
    point(s, 0, displacement);
    if (scale != 0) emit(alu(kLsh, d, scale));
    emit(alu_r(kAdd, d, s));
    emit(load(z, d, d, displacement));
  }

  // What compilers of C write often, and what becomes one instruction.
  void idiom() {
    const unsigned d = reg(), s = reg(), t = reg();
    const bool wide = below(2);
    switch (below(9)) {
      case 0: return extension(wide, d, s);
      case 1: return rotation(wide, d, s, t);
      case 2:  // a sum
        if (below(2)) emit(mov_r(d, s));
        if (below(2)) emit(alu(kLsh, d, std::int32_t(below(5))));
        if (below(2)) emit(alu_r(kAdd, d, t));
        if (below(2)) emit(alu(kAdd, d, number()));
        return;
      case 3: return jump_around(wide, d, s, t);
      case 4: return load_and_operate(wide, d, t);
      case 5:  // an operation with three operands
        move(wide, d, s);
        if (below(2))
          emit(wide ? alu(operation_but_shifts(), d, number()) : alu32(operation_but_shifts(), d, number()));
        else emit(wide ? alu_r(operation_but_shifts(), d, t) : alu32_r(operation_but_shifts(), d, t));
        return;
      case 6: return element_from_elsewhere(d, s, t);
      case 7:  // a jump around an exit, to which others lead as well
        if (below(4) != 0) return idiom();
        emit(raw((below(2) ? kEq : kGt) | 5u, d, 0, 1, number()));
        units_at_.push_back(code_.size());
        return emit(leave());
      default: return element(d, s);
    }
  }

  void call_unit() {
    if (simple_) return;
    if (now_ + 1 < functions_ && below(2)) {
      calls_.push_back({code_.size(), now_ + 1 + below(functions_ - now_ - 1)});
      emit(call_function(0));
    } else {
      emit(call(std::int32_t(1 + below(3))));
    }
    for (unsigned r = 1; r <= 5; ++r) set(r);
  }
  void filler() {
    for (unsigned n = 20 + below(200); n > 0; --n) emit(alu(kXor, reg(), number()));
  }
  void packet() {
    if (now_ != 0 || simple_) return;
    const unsigned s = std::array<unsigned, 3>{0x10, 0x08, 0x00}[below(3)];
    if (below(2)) return emit(raw(0x20 | s, 0, 0, 0, below(6) == 0 ? number() : std::int32_t(below(60))));
    const unsigned r = reg();
    emit(mov(r, std::int32_t(below(40))));
    emit(raw(0x40 | s, 0, r, 0, below(6) == 0 ? number() : std::int32_t(below(20))));
  }
  // Where comparisons find them.
  void keep_registers() {
    for (unsigned r = 0; r < 10; ++r) emit(store(kDw, 10, -8 * int(1 + r), r));
    point(1, kRegistersAt, 0);
    for (unsigned r = 0; r < 10; ++r) emit(load(kDw, 2, 10, -8 * int(1 + r))), emit(store(kDw, 1, int(8 * r), 2));
  }

  struct CallPlace {
    std::size_t at;
    unsigned callee;
  };
  const Decide& decide_;
  const unsigned units_;
  unsigned functions_ = 1, now_ = 0, loops_ = 0;
  bool deep_ = false, whole_ = false,
       simple_ = false;  // the function's stack is used to its end; each place as a whole; no divisions, calls and such
  Code code_;
  std::vector<std::size_t> starts_, jumps_, units_at_;
  std::vector<CallPlace> calls_;
};

std::uint64_t mix(std::uint64_t a, std::uint64_t b, std::uint64_t c, std::uint64_t d, std::uint64_t e) {
  return a * 3 + b * 5 + c * 7 + d * 11 + e * 13;
}
std::uint64_t first(std::uint64_t a, std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t) { return a; }
// Changes all registers that it may change, as far as a compiler does that, and needs an aligned stack.
std::uint64_t aligned(std::uint64_t a, std::uint64_t b, std::uint64_t c, std::uint64_t d, std::uint64_t e) {
  alignas(16) volatile std::uint64_t words[8] = {a, b, c, d, e, 1, 2, 3};
  if (reinterpret_cast<std::uint64_t>(__builtin_frame_address(0)) % 16 != 0) __builtin_trap();
  return words[0] ^ words[1] ^ words[2] ^ words[3] ^ words[4];
}

}  // namespace

Program random_program(const Decide& decide, unsigned units) { return Maker(decide, units).run(); }

Interpreter interpreter_for(std::span<std::uint8_t, kBuffer> buffer) {
  Interpreter with;
  with.helper = [](std::uint32_t number) -> Interpreter::Helper {
    return number == 1 ? mix : number == 2 ? first : aligned;
  };
  with.address = [start = reinterpret_cast<std::uint64_t>(buffer.data())](Wide, std::uint32_t, std::uint32_t offset) {
    return start + static_cast<std::uint64_t>(static_cast<std::int32_t>(offset));
  };
  return with;
}

}  // namespace ramet::jit::test
