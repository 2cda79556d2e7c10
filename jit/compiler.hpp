// From a checked program to machine code.
//
// A compiled program is called as uint64_t f(void* r1, uint64_t r2) by the C ABI of its instruction set and returns r0.
// It keeps that ABI's callee-saved registers, takes its stack from the machine's, and calls helpers by the same ABI
// with r1 to r5. It does not count loops: a program that does not end is stopped from outside. It makes no system call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "jit/check.hpp"

namespace ramet::jit {

template <class Back, class Encoder>
class BackEnd;

enum class InstructionSet : std::uint8_t { X86_64, Arm64 };

// A place in the code that is to hold an address, in the way of the instruction set.
struct Relocation {
  enum class Kind : std::uint8_t {
    Helper,  // function `number`
    Map,  // the value by which helpers know map `number`
    MapValue,  // the first value of map `number`, `offset` bytes into it
    Variable,  // platform variable `number`
  };
  Kind kind;
  std::uint32_t number, offset;
  std::uint32_t at;  // offset in the code, bytes
  std::uint32_t stub = 0;  // x86-64: offset of the jump to a helper that is too far away to be called
};

// Machine code that runs at any address once place() has relocated it; fastest at a multiple of 64.
class Compiled {
 public:
  InstructionSet instruction_set() const { return set_; }
  std::span<const std::uint8_t> code() const { return {code_.get(), size_}; }
  const std::vector<Relocation>& relocations() const { return relocations_; }

  // Where the code of an eBPF instruction begins, in bytes; for the number of instructions, where the code ends.
  // Instructions that were translated together have the same offset, and one that was left out has that of the next. A
  // function's prologue lies before the code of its first instruction.
  std::uint32_t offset_of(std::uint32_t instruction) const { return offsets_[instruction]; }
  // The instruction whose code holds the byte at `offset`: for addresses of faults.
  std::uint32_t instruction_at(std::uint32_t offset) const;

  // Writes the code to `to`, which has room for it, relocated to run at `address`; `resolve` gives the addresses.
  void place(std::span<std::uint8_t> to, std::uint64_t address,
             const std::function<std::uint64_t(const Relocation&)>& resolve) const;

 private:
  template <class Back, class Encoder>
  friend class BackEnd;
  InstructionSet set_{};
  std::uint32_t size_ = 0, count_ = 0;
  std::unique_ptr<std::uint8_t[]> code_;
  std::unique_ptr<std::uint32_t[]> offsets_;  // count_ + 1
  std::vector<Relocation> relocations_;
};

[[nodiscard]] Compiled compile(const Checked& program, InstructionSet set);

// The back ends. relocate_*(): writes `value` for the relocation into code that is to run at `address`.
Compiled compile_x86_64(const Checked& program);
Compiled compile_arm64(const Checked& program);
void relocate_x86_64(std::span<std::uint8_t> code, std::uint64_t address, const Relocation& r, std::uint64_t value);
void relocate_arm64(std::span<std::uint8_t> code, std::uint64_t address, const Relocation& r, std::uint64_t value);

}  // namespace ramet::jit
