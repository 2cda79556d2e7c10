#include "jit/instruction.hpp"

namespace ramet::jit {
namespace {

using enum Operation;
using namespace opcode;
using Table = std::array<Form, 256>;

constexpr std::array<Operation, 16> kArithmetic = {Add, Sub, Mul, Div, Or,  And,  Lsh,  Rsh,
                                                   Neg, Mod, Xor, Mov, Arsh, None, None, None};
constexpr std::array<Operation, 16> kConditions = {
    None, IfEqual, IfGreater, IfGreaterEqual, IfSet, IfNotEqual, IfSignedGreater, IfSignedGreaterEqual,
    None, None, IfLess, IfLessEqual, IfSignedLess, IfSignedLessEqual, None, None};

constexpr void arithmetic(Table& table) {
  for (unsigned code = 0; code < 16; ++code) {
    const Operation operation = kArithmetic[code];
    if (operation == None) continue;
    for (const std::uint8_t kind : {kAlu, kAlu64}) {
      const std::uint8_t bytes = kind == kAlu ? 4 : 8;
      // Div, Mod and Mov have variants in their offset; check() knows them.
      const bool variants = operation == Div || operation == Mod || operation == Mov;
      Form f{.operation = operation, .operand = Operand::Immediate, .bytes = bytes, .writes_dst = true,
             .reads_dst = operation != Mov, .zero_src = true, .zero_offset = !variants};
      if (operation == Neg) f.operand = Operand::None, f.zero_immediate = true;
      table[code << 4 | kind] = f;
      if (operation == Neg) continue;
      f.operand = Operand::Register, f.zero_src = false, f.zero_immediate = true;
      table[code << 4 | kRegister | kind] = f;
    }
  }
  const Form swap{.bytes = 8, .writes_dst = true, .reads_dst = true, .zero_src = true, .zero_offset = true};
  table[0xd4] = table[0xdc] = table[0xd7] = swap;
  table[0xd4].operation = ToLittle;
  table[0xdc].operation = ToBig;
  table[0xd7].operation = Swap;
}

constexpr void jumps(Table& table) {
  for (unsigned code = 0; code < 16; ++code) {
    if (kConditions[code] == None) continue;
    for (const std::uint8_t kind : {kJmp, kJmp32}) {
      Form f{.operation = kConditions[code], .operand = Operand::Immediate, .bytes = std::uint8_t(kind == kJmp ? 8 : 4),
             .reads_dst = true, .zero_src = true};
      table[code << 4 | kind] = f;
      f.operand = Operand::Register, f.zero_src = false, f.zero_immediate = true;
      table[code << 4 | kRegister | kind] = f;
    }
  }
  table[kJump] = {.operation = Jump, .zero_dst = true, .zero_src = true, .zero_immediate = true};
  table[kJumpLong] = {.operation = JumpLong, .zero_dst = true, .zero_src = true, .zero_offset = true};
  table[kCall] = {.operation = Call, .zero_dst = true, .zero_offset = true};
  table[kExit] = {.operation = Exit, .zero_dst = true, .zero_src = true, .zero_offset = true, .zero_immediate = true};
}

constexpr void memory(Table& table) {
  struct {
    std::uint8_t bits, bytes;
  } constexpr kSizes[] = {{kSizeB, 1}, {kSizeH, 2}, {kSizeW, 4}, {kSizeDw, 8}};
  for (const auto [bits, bytes] : kSizes) {
    table[kLdx | kMem | bits] = {.operation = Load, .operand = Operand::Register, .bytes = bytes, .writes_dst = true, .zero_immediate = true};
    table[kStx | kMem | bits] = {.operation = Store, .operand = Operand::Register, .bytes = bytes, .reads_dst = true, .zero_immediate = true};
    table[kSt | kMem | bits] = {.operation = StoreImmediate, .operand = Operand::Immediate, .bytes = bytes, .reads_dst = true, .zero_src = true};
    if (bytes < 8) {
      table[kLdx | kMemSx | bits] = table[kLdx | kMem | bits];
      table[kLdx | kMemSx | bits].operation = LoadSigned;
      table[kLd | kAbs | bits] = {.operation = PacketAbsolute, .bytes = bytes, .zero_dst = true, .zero_src = true, .zero_offset = true};
      table[kLd | kInd | bits] = {.operation = PacketIndirect, .operand = Operand::Register, .bytes = bytes, .zero_dst = true, .zero_offset = true};
    }
    if (bytes >= 4) table[kStx | kAtomic | bits] = {.operation = Atomic, .operand = Operand::Register, .bytes = bytes, .reads_dst = true};
  }
  table[kLoadWide] = {.operation = LoadWide, .bytes = 8, .writes_dst = true, .zero_offset = true};
}

constexpr Table make() {
  Table table{};
  arithmetic(table);
  jumps(table);
  memory(table);
  return table;
}

constexpr std::array<std::uint64_t, 256> reserved(const Table& table) {
  std::array<std::uint64_t, 256> bits{};
  for (unsigned n = 0; n < 256; ++n) {
    const Form& f = table[n];
    bits[n] = (f.zero_dst ? 0xf00u : 0u) | (f.zero_src ? 0xf000u : 0u) | (f.zero_offset ? 0xffff0000u : 0u) |
              (f.zero_immediate ? 0xffffffff00000000u : 0u);
  }
  return bits;
}

}  // namespace

constexpr std::array<Form, 256> kForms = make();
constexpr std::array<std::uint64_t, 256> kReserved = reserved(kForms);

}  // namespace ramet::jit
