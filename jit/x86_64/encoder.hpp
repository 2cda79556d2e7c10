// Writes x86-64 instructions, in the forms that the compiler needs. Nothing here checks for room: the compiler knows
// beforehand how many bytes an instruction can take at most.
#pragma once

#include <cstdint>
#include <cstring>

namespace ramet::jit::x86 {

enum Reg : std::uint8_t { rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15 };
enum Condition : std::uint8_t {
  kBelow = 2,
  kAboveEqual = 3,
  kEqual = 4,
  kNotEqual = 5,
  kBelowEqual = 6,
  kAbove = 7,
  kLess = 12,
  kGreaterEqual = 13,
  kLessEqual = 14,
  kGreater = 15
};

constexpr bool fits8(std::int64_t value) { return value == static_cast<std::int8_t>(value); }
constexpr bool fits32(std::int64_t value) { return value == static_cast<std::int32_t>(value); }

// An opcode with its prefixes.
struct Op {
  std::uint32_t bytes;             // as they lie in memory
  std::uint8_t length = 1;
  bool wide = false;               // 64 bits
  bool half = false;               // 16 bits
  bool byte_register = false;      // the register is one of 8 bits
  bool lock = false;
};
constexpr Op with_width(Op op, bool wide) {
  op.wide = wide;
  return op;
}

// [base + (index << scale) + displacement]
struct Address {
  static constexpr unsigned kNone = 16;
  unsigned base = kNone, index = kNone;
  unsigned scale = 0;
  std::int32_t displacement = 0;
};

class Encoder {
 public:
  // How a jump or call holds its displacement: in the last byte, or the last four, at `code`.
  enum class Displacement : std::uint8_t { Byte, Word };
  static void set_displacement(std::uint8_t* code, Displacement displacement, std::int64_t bytes) {
    if (displacement == Displacement::Byte) *code = static_cast<std::uint8_t>(bytes - 1);
    else put_word(code, bytes - 4);
  }

 protected:
  static void put_word(std::uint8_t* to, std::int64_t value) {
    const auto word = static_cast<std::uint32_t>(value);
    std::memcpy(to, &word, 4);
  }
  // Writes the lowest `length` bytes of `bits`, and always stores 8.
  void put(std::uint64_t bits, unsigned length) {
    std::memcpy(at_, &bits, 8);
    at_ += length;
  }

  // Two registers; `rm` is the manual's r/m.
  void registers(Op op, unsigned reg, unsigned rm) {
    head(op, reg, 0, rm, op.byte_register && (reg >= rsp || rm >= rsp));
    put(0xc0 | (reg & 7) << 3 | (rm & 7), 1);
  }
  // One register and an immediate, with the digit that manuals write after a slash.
  void immediate(unsigned digit, unsigned rm, std::int32_t value, bool wide) {
    if (fits8(value)) {
      head({.bytes = 0x83, .wide = wide}, 0, 0, rm, false);
      put((0xc0 | digit << 3 | (rm & 7)) | std::uint64_t(static_cast<std::uint8_t>(value)) << 8, 2);
    } else {
      head({.bytes = 0x81, .wide = wide}, 0, 0, rm, false);
      put((0xc0 | digit << 3 | (rm & 7)) | std::uint64_t(static_cast<std::uint32_t>(value)) << 8, 5);
    }
  }
  void one(Op op, unsigned digit, unsigned rm) { registers(op, digit, rm); }

  void memory(Op op, unsigned reg, unsigned base, std::int32_t displacement) {
    head(op, reg, 0, base, op.byte_register && reg >= rsp);
    const std::uint64_t modrm = (reg & 7) << 3 | (base & 7);
    if (displacement == 0 && (base & 7) != rbp) put(modrm, 1);
    else if (fits8(displacement)) put(0x40 | modrm | std::uint64_t(static_cast<std::uint8_t>(displacement)) << 8, 2);
    else put(0x80 | modrm | std::uint64_t(static_cast<std::uint32_t>(displacement)) << 8, 5);
  }
  void memory(Op op, unsigned reg, const Address& a) {
    if (a.index == Address::kNone) return memory(op, reg, a.base, a.displacement);
    const bool based = a.base != Address::kNone;
    head(op, reg, a.index, based ? a.base : 0, op.byte_register && reg >= rsp);
    const std::uint64_t modrm = (reg & 7) << 3 | 4, sib = (a.scale << 6 | (a.index & 7) << 3 | (based ? a.base & 7 : 5))
                                                          << 8;
    const auto value = std::uint64_t(static_cast<std::uint32_t>(a.displacement)) << 16;
    if (!based) put(modrm | sib | value, 6);
    else if (a.displacement == 0 && (a.base & 7) != rbp) put(modrm | sib, 2);
    else if (fits8(a.displacement)) put(0x40 | modrm | sib | (value & 0xff0000), 3);
    else put(0x80 | modrm | sib | value, 6);
  }

  // --- common instructions ---
  void mov(unsigned to, unsigned from, bool wide) { registers({.bytes = 0x89, .wide = wide}, from, to); }
  void mov_immediate(unsigned to, std::uint64_t value) {
    if (value == 0) return registers({.bytes = 0x31}, to, to);
    if (value <= UINT32_MAX) {
      if (to >= r8) put(0x41, 1);
      return put((0xb8 | (to & 7)) | value << 8, 5);
    }
    if (fits32(static_cast<std::int64_t>(value))) {
      put(0x48u | to >> 3 | 0xc7u << 8 | (0xc0u | (to & 7)) << 16 |
              std::uint64_t(static_cast<std::uint32_t>(value)) << 24,
          7);
      return;
    }
    mov_address(to, value);
  }
  void mov_address(unsigned to, std::uint64_t value) {
    put((0x48u | to >> 3) | (0xb8u | (to & 7)) << 8, 2);
    put(value, 8);
  }
  void shift(unsigned digit, unsigned rm, unsigned count, bool wide) {
    if (count == 1) return one({.bytes = 0xd1, .wide = wide}, digit, rm);
    one({.bytes = 0xc1, .wide = wide}, digit, rm);
    put(count, 1);
  }
  void push(unsigned reg) { reg >= r8 ? put(0x41u | (0x50u | (reg & 7)) << 8, 2) : put(0x50u | reg, 1); }
  void pop(unsigned reg) { reg >= r8 ? put(0x41u | (0x58u | (reg & 7)) << 8, 2) : put(0x58u | reg, 1); }

  // One instruction of 1 to 9 bytes.
  void nop(unsigned length) {
    static constexpr std::uint8_t kNops[9][9] = {{0x90},
                                                 {0x66, 0x90},
                                                 {0x0f, 0x1f, 0x00},
                                                 {0x0f, 0x1f, 0x40},
                                                 {0x0f, 0x1f, 0x44},
                                                 {0x66, 0x0f, 0x1f, 0x44},
                                                 {0x0f, 0x1f, 0x80},
                                                 {0x0f, 0x1f, 0x84},
                                                 {0x66, 0x0f, 0x1f, 0x84}};
    std::memcpy(at_, kNops[length - 1], 9);
    at_ += length;
  }

  // A jump forward by at most 127 bytes, to where land() is called with the result.
  std::uint8_t* jump_ahead(unsigned condition) {
    put(0x70u | condition, 2);
    return at_;
  }
  std::uint8_t* jump_ahead() {
    put(0xeb, 2);
    return at_;
  }
  void land(std::uint8_t* jump) { jump[-1] = static_cast<std::uint8_t>(at_ - jump); }

  std::uint8_t* at_ = nullptr;

 private:
  void head(Op op, unsigned reg, unsigned index, unsigned rm, bool needs_rex) {
    std::uint64_t bits = op.bytes;
    unsigned length = op.length;
    const unsigned rex = 0x40u | unsigned{op.wide} << 3 | reg >> 3 << 2 | index >> 3 << 1 | rm >> 3;
    if (rex != 0x40 || needs_rex) bits = bits << 8 | rex, ++length;
    if (op.half) bits = bits << 8 | 0x66, ++length;
    if (op.lock) bits = bits << 8 | 0xf0, ++length;
    put(bits, length);
  }
};

}  // namespace ramet::jit::x86
