// Writes arm64 instructions, in the forms that the compiler needs. Nothing here checks for room: the compiler knows
// beforehand how many words an instruction can take at most.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>

namespace ramet::jit::arm {

inline constexpr unsigned kZero = 31;  // as an operand: xzr, or sp where an address or an addition is meant
inline constexpr unsigned kSp = 31;
enum Condition : std::uint8_t {
  kEqual,
  kNotEqual,
  kHigherSame,
  kLower,
  kHigher = 8,
  kLowerSame,
  kGreaterEqual,
  kLess,
  kGreater,
  kLessEqual
};
constexpr unsigned opposite(unsigned condition) { return condition ^ 1; }

// N, immr and imms of an immediate of and, orr, eor: a run of ones, rotated and repeated. nullopt: the value is none.
constexpr std::optional<std::uint32_t> mask_immediate(std::uint64_t value, bool wide) {
  if (!wide) value = (value & 0xffffffff) | value << 32;
  if (value == 0 || value == ~std::uint64_t{0}) return std::nullopt;
  unsigned size = 64;
  while (size > 2) {  // the shortest pattern that repeats
    const unsigned half = size / 2;
    const std::uint64_t ones = (std::uint64_t{1} << half) - 1;
    if ((value & ones) != (value >> half & ones)) break;
    size = half;
  }
  const std::uint64_t ones = size == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << size) - 1;
  const std::uint64_t pattern = value & ones;
  // Rotated to the right until the run begins at bit 0.
  unsigned rotated = 0;
  std::uint64_t p = pattern;
  while (!((p & 1) && !(p >> (size - 1) & 1))) {
    p = (p >> 1 | p << (size - 1)) & ones;
    if (++rotated == size) return std::nullopt;
  }
  const unsigned length = static_cast<unsigned>(std::countr_one(p));
  if (p >> length != 0) return std::nullopt;
  const unsigned immr = (size - rotated) % size;
  const unsigned imms = ((~(size - 1) << 1) & 0x3f) | (length - 1);
  return (size == 64 ? 1u << 12 : 0) | immr << 6 | imms;
}

class Encoder {
 public:
  // How an instruction holds a displacement. Address: in two halves, in the two instructions after the one at `code`.
  enum class Displacement : std::uint8_t { Branch, ConditionalBranch, Address };
  static void set_displacement(std::uint8_t* code, Displacement displacement, std::int64_t bytes) {
    switch (displacement) {
      case Displacement::Branch: return add_bits(code, field(bytes / 4, 26));
      case Displacement::ConditionalBranch: return add_bits(code, field(bytes / 4, 19) << 5);
      case Displacement::Address:
        add_bits(code + 4, field(bytes, 16) << 5);
        return add_bits(code + 8, field(bytes >> 16, 16) << 5);
    }
  }

 protected:
  static void add_bits(std::uint8_t* code, std::uint32_t bits) {
    std::uint32_t word;
    std::memcpy(&word, code, 4);
    word |= bits;
    std::memcpy(code, &word, 4);
  }
  void put(std::uint32_t word) {
    std::memcpy(at_, &word, 4);
    at_ += 4;
  }
  static constexpr std::uint32_t sf(bool wide) { return std::uint32_t{wide} << 31; }

  // --- arithmetic on registers; `op` is the word with no registers and for 32 bits ---
  void three(std::uint32_t op, unsigned d, unsigned n, unsigned m, bool wide) {
    put(op | sf(wide) | m << 16 | n << 5 | d);
  }
  static constexpr std::uint32_t kAdd = 0x0b000000, kSub = 0x4b000000, kSubFlags = 0x6b000000, kAnd = 0x0a000000,
                                 kOr = 0x2a000000, kXor = 0x4a000000, kAndFlags = 0x6a000000, kLslv = 0x1ac02000,
                                 kLsrv = 0x1ac02400, kAsrv = 0x1ac02800, kUdiv = 0x1ac00800, kSdiv = 0x1ac00c00;
  void add_shifted(unsigned d, unsigned n, unsigned m, unsigned shift) {
    put(0x8b000000 | m << 16 | shift << 10 | n << 5 | d);
  }
  void multiply_add(unsigned d, unsigned n, unsigned m, unsigned a, bool wide) {
    put(0x1b000000 | sf(wide) | m << 16 | a << 10 | n << 5 | d);
  }
  void multiply_subtract(unsigned d, unsigned n, unsigned m, unsigned a, bool wide) {
    put(0x1b008000 | sf(wide) | m << 16 | a << 10 | n << 5 | d);
  }
  void select(unsigned d, unsigned n, unsigned m, unsigned condition) {
    put(0x9a800000 | m << 16 | condition << 12 | n << 5 | d);  // n if the condition holds, else m
  }
  void mov(unsigned d, unsigned m, bool wide) { three(kOr, d, kZero, m, wide); }

  // --- with immediates ---
  void add_immediate(unsigned d, unsigned n, unsigned value, bool wide) {
    put(0x11000000 | sf(wide) | value << 10 | n << 5 | d);
  }
  void subtract_immediate(unsigned d, unsigned n, unsigned value, bool wide) {
    put(0x51000000 | sf(wide) | value << 10 | n << 5 | d);
  }
  void compare_immediate(unsigned n, unsigned value, bool wide) { put(0x7100001f | sf(wide) | value << 10 | n << 5); }
  void compare_negative(unsigned n, unsigned value, bool wide) { put(0x3100001f | sf(wide) | value << 10 | n << 5); }
  // and, orr, eor, ands with what mask_immediate() gave.
  static constexpr std::uint32_t kAndMask = 0x12000000, kOrMask = 0x32000000, kXorMask = 0x52000000,
                                 kAndFlagsMask = 0x72000000;
  void masked(std::uint32_t op, unsigned d, unsigned n, std::uint32_t mask, bool wide) {
    put(op | sf(wide) | mask << 10 | n << 5 | d);
  }
  void bits_unsigned(unsigned d, unsigned n, unsigned immr, unsigned imms, bool wide) {
    put(0x53000000 | sf(wide) | std::uint32_t{wide} << 22 | immr << 16 | imms << 10 | n << 5 | d);
  }
  void bits_signed(unsigned d, unsigned n, unsigned immr, unsigned imms, bool wide) {
    put(0x13000000 | sf(wide) | std::uint32_t{wide} << 22 | immr << 16 | imms << 10 | n << 5 | d);
  }
  void rotate_right(unsigned d, unsigned n, unsigned by, bool wide) {
    put(0x13800000 | sf(wide) | std::uint32_t{wide} << 22 | n << 16 | by << 10 | n << 5 | d);
  }
  void reverse16(unsigned d, unsigned n) { put(0x5ac00400 | n << 5 | d); }
  void reverse(unsigned d, unsigned n, bool wide) { put((wide ? 0xdac00c00 : 0x5ac00800) | n << 5 | d); }

  void move_wide(std::uint32_t op, unsigned d, unsigned value, unsigned quarter, bool wide) {
    put(op | sf(wide) | quarter << 21 | value << 5 | d);
  }
  static constexpr std::uint32_t kMovn = 0x12800000, kMovz = 0x52800000, kMovk = 0x72800000;
  // One word if that is enough, at most four.
  void mov_immediate(unsigned d, std::uint64_t value) {
    unsigned zeroes = 0, ones = 0;
    for (unsigned q = 0; q < 4; ++q) {
      const std::uint64_t part = value >> 16 * q & 0xffff;
      zeroes += part == 0, ones += part == 0xffff;
    }
    if (zeroes < 3 && ones < 3)
      if (const auto mask = mask_immediate(value, true)) return masked(kOrMask, d, kZero, *mask, true);
    const bool inverted = ones > zeroes;
    const std::uint64_t skipped = inverted ? 0xffff : 0;
    bool first = true;
    for (unsigned q = 0; q < 4; ++q) {
      const auto part = static_cast<unsigned>(value >> 16 * q & 0xffff);
      if (part == skipped) continue;
      if (first) move_wide(inverted ? kMovn : kMovz, d, inverted ? part ^ 0xffff : part, q, true);
      else move_wide(kMovk, d, part, q, true);
      first = false;
    }
    if (first) move_wide(inverted ? kMovn : kMovz, d, 0, 0, true);
  }
  // Always four words; relocate_arm64() writes the address into them.
  void mov_address(unsigned d) {
    for (unsigned q = 0; q < 4; ++q) move_wide(q == 0 ? kMovz : kMovk, d, 0, q, true);
  }

  // --- memory: `size` is the binary logarithm of the bytes; `op` the word of the form with an unsigned, scaled offset
  // ---
  static constexpr std::uint32_t kLoad = 0x39400000, kLoadSigned = 0x39800000, kStore = 0x39000000;
  void memory(std::uint32_t op, unsigned size, unsigned t, unsigned n, std::int32_t offset, unsigned scratch) {
    const std::uint32_t base = op | size << 30;
    if (offset >= 0 && offset % (1 << size) == 0 && offset >> size < 4096)
      return put(base | static_cast<std::uint32_t>(offset >> size) << 10 | n << 5 | t);
    if (offset >= -256 && offset < 256)
      return put((base & ~0x01000000u) | (static_cast<std::uint32_t>(offset) & 0x1ff) << 12 | n << 5 | t);
    mov_immediate(scratch, static_cast<std::uint64_t>(std::int64_t{offset}));
    indexed(op, size, t, n, scratch, false);
  }
  // [n + m], or with m scaled by the size.
  void indexed(std::uint32_t op, unsigned size, unsigned t, unsigned n, unsigned m, bool scaled) {
    put(((op | size << 30) & ~0x01000000u) | 0x00206800 | std::uint32_t{scaled} << 12 | m << 16 | n << 5 | t);
  }
  void load_exclusive(unsigned t, unsigned n, bool wide) { put((wide ? 0xc85f7c00 : 0x885f7c00) | n << 5 | t); }
  void store_release_exclusive(unsigned status, unsigned t, unsigned n, bool wide) {
    put((wide ? 0xc800fc00 : 0x8800fc00) | status << 16 | n << 5 | t);
  }
  void barrier() { put(0xd5033bbf); }  // dmb ish
  void push_pair(unsigned a, unsigned b) { put(0xa9bf0000 | b << 10 | kSp << 5 | a); }
  void pop_pair(unsigned a, unsigned b) { put(0xa8c10000 | b << 10 | kSp << 5 | a); }

  // --- jumps: displacements in words from the jump itself ---
  static constexpr std::uint32_t field(std::int64_t words, unsigned bits) {
    return static_cast<std::uint32_t>(words) & ((1u << bits) - 1);
  }
  void branch(std::int64_t words) { put(0x14000000 | field(words, 26)); }
  void branch_if(unsigned condition, std::int64_t words) { put(0x54000000 | field(words, 19) << 5 | condition); }
  void branch_zero(bool zero, unsigned t, std::int64_t words, bool wide) {
    put((zero ? 0x34000000 : 0x35000000) | sf(wide) | field(words, 19) << 5 | t);
  }
  void call_register(unsigned n) { put(0xd63f0000 | n << 5); }
  void call(std::int64_t words) { put(0x94000000 | field(words, 26)); }
  void here_address(unsigned d) { put(0x10000000 | d); }  // adr: the address of this instruction itself
  void ret() { put(0xd65f03c0); }

  std::uint8_t* at_ = nullptr;
};

}  // namespace ramet::jit::arm
