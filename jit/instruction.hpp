// eBPF's instructions, as in RFC 9669, and one table that says for every opcode what it does and which fields are
// reserved and must be zero. The checker, the compilers and the tests' interpreter use this table.
#pragma once

#include <array>
#include <cstdint>

namespace ramet::jit {

// The layout in memory, on little-endian hosts.
struct Instruction {
  std::uint8_t opcode = 0;
  std::uint8_t registers = 0;  // destination in the lower half, source in the upper
  std::int16_t offset = 0;
  std::int32_t immediate = 0;

  constexpr unsigned dst() const { return registers & 15; }
  constexpr unsigned src() const { return registers >> 4; }
  bool operator==(const Instruction&) const = default;
};
static_assert(sizeof(Instruction) == 8);

inline constexpr unsigned kRegisters = 11;      // r0 to r10
inline constexpr unsigned kFramePointer = 10;   // r10, which no instruction writes
inline constexpr unsigned kFrameBytes = 512;    // of stack below r10, for each function
inline constexpr unsigned kMostFrames = 8;      // of functions that call each other

enum class Operation : std::uint8_t {
  None,  // no instruction has this opcode
  // Arithmetic: dst = dst OPERATION operand.
  Add, Sub, Mul, Div, Or, And, Lsh, Rsh, Neg, Mod, Xor, Mov, Arsh,
  ToLittle, ToBig, Swap,  // of the immediate's 16, 32 or 64 bits
  // Memory.
  Load, LoadSigned, Store, StoreImmediate, Atomic,
  LoadWide,                        // two slots; src says what is loaded, see Wide
  PacketAbsolute, PacketIndirect,  // r0 = big-endian value of the input at immediate (+ src)
  // Jumps: to the instruction after this one plus offset, or plus immediate for JumpLong.
  Jump, JumpLong,
  IfEqual, IfGreater, IfGreaterEqual, IfSet, IfNotEqual, IfSignedGreater, IfSignedGreaterEqual,
  IfLess, IfLessEqual, IfSignedLess, IfSignedLessEqual,
  Call, Exit,
};

enum class Operand : std::uint8_t { None, Immediate, Register };

// What an opcode does, and which fields must be zero.
struct Form {
  Operation operation = Operation::None;
  Operand operand = Operand::None;
  std::uint8_t bytes = 0;  // operand size: 4 or 8 for arithmetic and comparisons, 1 to 8 for memory
  bool writes_dst = false, reads_dst = false;
  bool zero_dst = false, zero_src = false, zero_offset = false, zero_immediate = false;
};

namespace opcode {
// Classes, the lower three bits.
inline constexpr std::uint8_t kLd = 0, kLdx = 1, kSt = 2, kStx = 3, kAlu = 4, kJmp = 5, kJmp32 = 6, kAlu64 = 7;
inline constexpr std::uint8_t kRegister = 0x08;  // source bit of arithmetic and jumps
inline constexpr std::uint8_t kSizeW = 0x00, kSizeH = 0x08, kSizeB = 0x10, kSizeDw = 0x18;
inline constexpr std::uint8_t kAbs = 0x20, kInd = 0x40, kMem = 0x60, kMemSx = 0x80, kAtomic = 0xc0;
inline constexpr std::uint8_t kLoadWide = kLd | kSizeDw, kCall = 0x85, kExit = 0x95, kJump = 0x05, kJumpLong = 0x06;
}  // namespace opcode

// LoadWide by its source field. A map's descriptor is its number in Program::maps, as its index is.
enum class Wide : std::uint8_t { Number, Map, MapValue, Variable, Function, MapByIndex, MapValueByIndex };
inline constexpr unsigned kWides = 7;

// Call by its source field.
enum class Callee : std::uint8_t { Helper, Function };

// Atomic by its immediate.
namespace atomic {
inline constexpr std::int32_t kFetch = 0x01, kAdd = 0x00, kOr = 0x40, kAnd = 0x50, kXor = 0xa0;
inline constexpr std::int32_t kExchange = 0xe1, kCompareExchange = 0xf1;
constexpr bool exists(std::int32_t i) {
  const std::int32_t plain = i & ~kFetch;
  return plain == kAdd || plain == kOr || plain == kAnd || plain == kXor || i == kExchange || i == kCompareExchange;
}
// Whether src gets the old value. Compare-and-exchange gives it to r0.
constexpr bool fetches_into_source(std::int32_t i) { return (i & kFetch) != 0 && i != kCompareExchange; }
}  // namespace atomic

extern const std::array<Form, 256> kForms;
extern const std::array<std::uint64_t, 256> kReserved;  // the bits of an instruction that must be zero, by its opcode
inline const Form& form(const Instruction& i) { return kForms[i.opcode]; }

// The value in a register of the immediate of arithmetic and moves.
constexpr std::uint64_t number_of(const Instruction& i, bool wide) {
  return wide ? static_cast<std::uint64_t>(std::int64_t{i.immediate}) : static_cast<std::uint32_t>(i.immediate);
}

constexpr bool is_arithmetic(Operation o) { return o >= Operation::Add && o <= Operation::Swap; }
constexpr bool is_condition(Operation o) { return o >= Operation::IfEqual && o <= Operation::IfSignedLessEqual; }

}  // namespace ramet::jit
