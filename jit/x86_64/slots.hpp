// Words of a function's frame that live in registers: values that clang spilled because eBPF has few registers. Only if
// the frame's address is not taken, and the word is always accessed as a whole.
#pragma once

#include <array>

#include "jit/check.hpp"

namespace ramet::jit::x86 {

class Slots {
 public:
  static constexpr unsigned kNone = 0;  // rax, which is r0's

  void choose(const Checked& program, const Function& f);
  // The register that holds the word at r10 + offset; kNone: it is in memory.
  unsigned at(int offset) const { return any_ ? registers_[cell(offset)] : kNone; }
  bool use_r12() const { return any_; }  // r12 is the first register taken

 private:
  static constexpr unsigned kCells = kFrameBytes / 4;
  static unsigned cell(int offset) { return (kFrameBytes + static_cast<unsigned>(offset)) / 4; }

  bool any_ = false;
  std::array<std::uint8_t, kCells> registers_;
};

}  // namespace ramet::jit::x86
