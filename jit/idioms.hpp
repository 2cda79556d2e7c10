// Sequences of instructions, as C compilers write them for eBPF, that processors have as one instruction: extensions
// made of two shifts, rotations, sums that are addresses, jumps around a single move. Only the first instruction of a
// sequence may be the target of a jump.
#pragma once

#include "jit/liveness.hpp"

namespace ramet::jit {

// [d = s] d <<= left, d >>= right, in 64 bits or 32: some bits of s at another place, with zeroes or the sign above
// them.
struct Extension {
  std::uint32_t taken = 0;  // instructions, 0 if there is no such thing
  unsigned dst = 0, src = 0, left = 0, right = 0;
  bool is_signed = false, wide = false;
};

// dst = src rotated to the left, in 64 bits or 32.
struct Rotation {
  std::uint32_t taken = 0;
  unsigned dst = 0, src = 0, left = 0;
  bool wide = false;
};

// d = (src << shift) [+ added] [+ number], perhaps followed by the load x = *(d + offset), which then counts in
// `taken`; d is x or dead after that. Written as
//     [d = src] [d <<= shift] [d += added] [d += number]
// or  src <<= shift, d = added or a load `before`, d += src [d += number]     where src is dead afterwards.
struct Sum {
  static constexpr unsigned kNone = kRegisters;
  std::uint32_t taken = 0;
  unsigned dst = 0, src = 0, added = kNone, shift = 0;
  std::int32_t number = 0;
  const Instruction *before = nullptr, *load = nullptr;
};

namespace opcode {
inline constexpr std::uint8_t kMov64 = 0xbf, kMov32 = 0xbc, kMovImmediate64 = 0xb7, kMovImmediate32 = 0xb4,
                              kAdd64 = 0x0f, kAddImmediate64 = 0x07, kLsh64 = 0x67, kRsh64 = 0x77, kArsh64 = 0xc7,
                              kLsh32 = 0x64, kRsh32 = 0x74, kArsh32 = 0xc4, kOr64 = 0x4f, kOr32 = 0x4c;
}  // namespace opcode

inline bool is_move(const Instruction& i) {
  return (i.opcode == opcode::kMov64 || i.opcode == opcode::kMov32 || i.opcode == opcode::kMovImmediate64 ||
          i.opcode == opcode::kMovImmediate32) &&
         i.offset == 0;
}

class Idioms {
 public:
  Idioms(const Checked& program, const Liveness& alive)
      : code_(program.instructions().data()), marks_(program.marks()),
        count_(static_cast<std::uint32_t>(program.instructions().size())), alive_(alive) {}

  // Whether an idiom of arithmetic may begin with the instruction.
  static bool may_begin(const Instruction& i) { return kBegins[i.opcode]; }
  // Whether there is an instruction that is reached only from the one before it.
  bool follows(std::uint32_t at) const { return at < count_ && !(marks_[at] & (mark::kTarget | mark::kFunction)); }
  // Precondition: the next instruction has the same destination. Mostly the next opcode already rules the idiom out.
  Extension extension(std::uint32_t at) const { return shifts(at + 1) ? find_extension(at) : Extension{}; }
  Rotation rotation(std::uint32_t at) const { return shifts(at + 1) ? find_rotation(at) : Rotation{}; }
  Sum sum(std::uint32_t at) const { return adds(at + 1) ? find_sum(at) : Sum{}; }
  Sum scaled_sum(std::uint32_t at) const {
    return code_[at].immediate <= 3 && follows(at + 2) && code_[at + 2].opcode == opcode::kAdd64 ? find_scaled_sum(at)
                                                                                                 : Sum{};
  }
  // The move that the condition jumps around; null if it jumps around anything else.
  const Instruction* only_move(std::uint32_t condition) const {
    const Instruction& next = code_[condition + 1];
    return code_[condition].offset == 1 && is_move(next) && follows(condition + 1) ? &next : nullptr;
  }
  // Whether a single move, and perhaps a jump, is all that is executed from instruction `at` to `to`.
  bool is_only_move(std::uint32_t at, std::uint32_t to) const {
    if (!is_move(code_[at])) return false;
    const Instruction& next = code_[at + 1];
    return at + 1 == to || (next.opcode == opcode::kJump && static_cast<std::uint32_t>(at + 2 + next.offset) == to);
  }
  // The arithmetic after a load if nothing else uses the loaded value: as its operand, in the same width. Else null.
  const Instruction* only_user(std::uint32_t load) const {
    const Instruction& next = code_[load + 1];
    return next.src() == code_[load].dst() && only_used_next(load) ? &next : nullptr;
  }

 private:
  static constexpr auto kBegins = [] {
    std::array<bool, 256> begins{};
    for (const std::uint8_t o :
         {opcode::kMov64, opcode::kMov32, opcode::kLsh64, opcode::kLsh32, opcode::kAdd64, opcode::kAddImmediate64})
      begins[o] = true;
    return begins;
  }();

  bool shifts(std::uint32_t at) const {
    const std::uint8_t o = code_[at].opcode;
    return o == opcode::kLsh64 || o == opcode::kRsh64 || o == opcode::kArsh64 || o == opcode::kLsh32 ||
           o == opcode::kRsh32 || o == opcode::kArsh32;
  }
  bool adds(std::uint32_t at) const {
    const std::uint8_t o = code_[at].opcode;
    return o == opcode::kAdd64 || o == opcode::kAddImmediate64 || o == opcode::kLsh64 || (o & 7) == opcode::kLdx;
  }
  Extension find_extension(std::uint32_t at) const;
  Rotation find_rotation(std::uint32_t at) const;
  Sum find_sum(std::uint32_t at) const;
  Sum find_scaled_sum(std::uint32_t at) const;
  std::uint32_t end_of_sum(Sum& s, std::uint32_t at, std::uint32_t next) const;
  bool only_used_next(std::uint32_t at) const;

  const Instruction* code_;
  const std::uint8_t* marks_;
  std::uint32_t count_;
  const Liveness& alive_;
};

}  // namespace ramet::jit
