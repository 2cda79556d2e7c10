// Sequences of instructions that processors have as one, as compilers of C write them for eBPF: extensions made of two
// shifts, rotations, sums that are addresses. Nothing may jump to any instruction of one but the first.
#pragma once

#include "jit/check.hpp"

namespace ramet::jit {

// [d = s] d <<= left, d >>= right: some bits of s at another place, with zeroes or the sign above them.
struct Extension {
  std::uint32_t taken = 0;  // instructions, 0 if there is no such thing
  unsigned dst = 0, src = 0, left = 0, right = 0;
  bool is_signed = false;
};

// dst = src rotated to the left, in 64 bits or 32.
struct Rotation {
  std::uint32_t taken = 0;
  unsigned dst = 0, src = 0, left = 0;
  bool wide = false;
};

// [d = s] [d <<= shift] [d += r] [d += number], and perhaps d = *(d + offset), which is then among `taken`.
struct Sum {
  static constexpr unsigned kNone = kRegisters;
  std::uint32_t taken = 0;
  unsigned dst = 0, src = 0, added = kNone, shift = 0;
  std::int32_t number = 0;
  const Instruction* load = nullptr;
};

namespace opcode {
inline constexpr std::uint8_t kMov64 = 0xbf, kMov32 = 0xbc, kAdd64 = 0x0f, kAddImmediate64 = 0x07, kLsh64 = 0x67, kRsh64 = 0x77, kArsh64 = 0xc7,
                              kLsh32 = 0x64, kRsh32 = 0x74, kOr64 = 0x4f, kOr32 = 0x4c;
}  // namespace opcode

class Idioms {
 public:
  // Of the function that has instructions up to `end`.
  Idioms(const Instruction* code, const std::uint8_t* marks, std::uint32_t end) : code_(code), marks_(marks), end_(end) {}

  // Whether an instruction is there, to which nothing but the one before it leads.
  bool follows(std::uint32_t at) const { return at < end_ && !(marks_[at] & (mark::kTarget | mark::kFunction)); }
  // Where an instruction follows that has the same destination. The next opcode mostly says that there is none.
  Extension extension(std::uint32_t at) const { return shifts(at + 1) ? find_extension(at) : Extension{}; }
  Rotation rotation(std::uint32_t at) const { return shifts(at + 1) ? find_rotation(at) : Rotation{}; }
  Sum sum(std::uint32_t at) const { return adds(at + 1) ? find_sum(at) : Sum{}; }

 private:
  bool shifts(std::uint32_t at) const {
    const std::uint8_t o = code_[at].opcode;
    return o == opcode::kLsh64 || o == opcode::kRsh64 || o == opcode::kArsh64 || o == opcode::kLsh32 || o == opcode::kRsh32;
  }
  bool adds(std::uint32_t at) const {
    const std::uint8_t o = code_[at].opcode;
    return o == opcode::kAdd64 || o == opcode::kAddImmediate64 || o == opcode::kLsh64 || (o & 7) == opcode::kLdx;
  }
  Extension find_extension(std::uint32_t at) const;
  Rotation find_rotation(std::uint32_t at) const;
  Sum find_sum(std::uint32_t at) const;
  bool dead_after(std::uint32_t at, unsigned reg) const;

  const Instruction* code_;
  const std::uint8_t* marks_;
  std::uint32_t end_;
};

}  // namespace ramet::jit
