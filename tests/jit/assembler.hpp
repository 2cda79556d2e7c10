// Instructions by name, for programs written in tests.
#pragma once

#include <initializer_list>
#include <vector>

#include "jit/program.hpp"

namespace ramet::jit::test {

using Code = std::vector<Instruction>;

constexpr Instruction raw(unsigned opcode, unsigned dst = 0, unsigned src = 0, int offset = 0, std::int32_t immediate = 0) {
  return {static_cast<std::uint8_t>(opcode), static_cast<std::uint8_t>(dst | src << 4), static_cast<std::int16_t>(offset), immediate};
}

// Codes of arithmetic and conditions, the upper half of the opcode.
enum Alu { kAdd = 0x00, kSub = 0x10, kMul = 0x20, kDiv = 0x30, kOr = 0x40, kAnd = 0x50, kLsh = 0x60, kRsh = 0x70,
           kNeg = 0x80, kMod = 0x90, kXor = 0xa0, kMov = 0xb0, kArsh = 0xc0 };
enum If { kEq = 0x10, kGt = 0x20, kGe = 0x30, kSet = 0x40, kNe = 0x50, kSgt = 0x60, kSge = 0x70,
          kLt = 0xa0, kLe = 0xb0, kSlt = 0xc0, kSle = 0xd0 };
enum Size { kB = 0x10, kH = 0x08, kW = 0x00, kDw = 0x18 };

constexpr Instruction alu(Alu code, unsigned dst, std::int32_t immediate, int offset = 0) { return raw(code | 7, dst, 0, offset, immediate); }
constexpr Instruction alu_r(Alu code, unsigned dst, unsigned src, int offset = 0) { return raw(code | 0xf, dst, src, offset); }
constexpr Instruction alu32(Alu code, unsigned dst, std::int32_t immediate, int offset = 0) { return raw(code | 4, dst, 0, offset, immediate); }
constexpr Instruction alu32_r(Alu code, unsigned dst, unsigned src, int offset = 0) { return raw(code | 0xc, dst, src, offset); }
constexpr Instruction mov(unsigned dst, std::int32_t immediate) { return alu(kMov, dst, immediate); }
constexpr Instruction mov_r(unsigned dst, unsigned src) { return alu_r(kMov, dst, src); }
constexpr Instruction jump(int offset) { return raw(0x05, 0, 0, offset); }
constexpr Instruction jump_long(std::int32_t distance) { return raw(0x06, 0, 0, 0, distance); }
constexpr Instruction when(If code, unsigned dst, std::int32_t immediate, int offset) { return raw(code | 5, dst, 0, offset, immediate); }
constexpr Instruction when_r(If code, unsigned dst, unsigned src, int offset) { return raw(code | 0xd, dst, src, offset); }
constexpr Instruction when32(If code, unsigned dst, std::int32_t immediate, int offset) { return raw(code | 6, dst, 0, offset, immediate); }
constexpr Instruction when32_r(If code, unsigned dst, unsigned src, int offset) { return raw(code | 0xe, dst, src, offset); }
constexpr Instruction load(Size size, unsigned dst, unsigned src, int offset) { return raw(0x61 | size, dst, src, offset); }
constexpr Instruction load_signed(Size size, unsigned dst, unsigned src, int offset) { return raw(0x81 | size, dst, src, offset); }
constexpr Instruction store(Size size, unsigned dst, int offset, unsigned src) { return raw(0x63 | size, dst, src, offset); }
constexpr Instruction store_immediate(Size size, unsigned dst, int offset, std::int32_t immediate) { return raw(0x62 | size, dst, 0, offset, immediate); }
constexpr Instruction atomic(Size size, std::int32_t operation, unsigned dst, int offset, unsigned src) { return raw(0xc3 | size, dst, src, offset, operation); }
constexpr Instruction call(std::int32_t helper) { return raw(0x85, 0, 0, 0, helper); }
constexpr Instruction call_function(std::int32_t distance) { return raw(0x85, 0, 1, 0, distance); }
constexpr Instruction leave() { return raw(0x95); }

inline void wide(Code& code, unsigned dst, unsigned src, std::uint64_t value) {
  code.push_back(raw(0x18, dst, src, 0, static_cast<std::int32_t>(value)));
  code.push_back(raw(0, 0, 0, 0, static_cast<std::int32_t>(value >> 32)));
}

}  // namespace ramet::jit::test
