// How compiled programs are entered and left in a guest: a few instructions of each instruction set, the same in every
// guest. Programs are called by the C ABI; a system call leads out of the guest.
//
// A batch is an array of BatchCall in the guest's memory, whose calls are made without leaving the guest. Meanwhile the
// register `list` holds the address of the current BatchCall, `end` that of the array's end; both are callee-saved.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "arch/user_state.hpp"
#include "jit/compiler.hpp"

namespace ramet::jit {

// The layout in the guest's memory.
struct BatchCall {
  std::uint64_t program = 0;  // address
  std::uint64_t r1 = 0, r2 = 0;
  std::uint64_t r0 = 0;  // when it has returned
};
static_assert(sizeof(BatchCall) == 32);

// Numbers of the system calls, none of which Linux uses.
// The program, or the whole batch, has returned; argument 0: the last r0.
inline constexpr std::uint32_t kDone = 0x0fff;
// Helper n is kFirstHelper + n, n < kMostHelpers: its arguments are the call's, its r0 the result.
inline constexpr std::uint32_t kFirstHelper = 0x1000, kMostHelpers = 0x7000;

struct EntryCode {
  std::span<const std::uint8_t> code;  // runs at any address
  std::uint32_t batch;  // offset of the entry for a batch; to skip a call that does not return, enter here with `list`
                        // at the next BatchCall
  std::uint32_t one;  // offset of the entry for one program: its address in `list`, r1 and r2 in `arguments`
  std::uint8_t list, end;  // registers, as words of UserRegs
  std::uint8_t arguments[2];
};
const EntryCode& entry_code(InstructionSet);

// A function that makes the call of a helper.
std::vector<std::uint8_t> helper_stub(InstructionSet, std::uint32_t number);

// Instructions that trap, to fill room without a program: a thread that runs into them gets a signal.
std::vector<std::uint8_t> traps(InstructionSet, std::size_t bytes);

// The alignment of a program. `loops`: it has a jump backward; loops are fastest at the beginning of a cache line.
constexpr std::uint32_t alignment(bool loops) { return loops ? 64 : 16; }

}  // namespace ramet::jit
