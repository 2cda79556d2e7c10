// How compiled programs are entered and left where they run as a guest: a few instructions of each instruction set that
// are the same in every guest. Registers are the C ABI's; what is a system call there leads out of the guest.
//
// A batch is a list of BatchCall in the guest's memory, worked off without leaving it. While it runs, the register
// `list` holds the address of the current call, `end` that of the end; programs keep both for their callers.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "arch/user_state.hpp"
#include "jit/compiler.hpp"

namespace ramet::jit {

// As it lies in the guest's memory.
struct BatchCall {
  std::uint64_t program = 0;  // address
  std::uint64_t r1 = 0, r2 = 0;
  std::uint64_t r0 = 0;  // when it has returned
};
static_assert(sizeof(BatchCall) == 32);

// Numbers of the system calls, which are none of Linux's.
inline constexpr std::uint32_t kDone =
    0x0fff;  // the program, or the whole batch, has returned; argument 0: the last r0
inline constexpr std::uint32_t kFirstHelper =
    0x1000;  // helper n is kFirstHelper + n: its arguments are the call's, its r0 the result
inline constexpr std::uint32_t kMostHelpers = 0x7000;  // helpers' numbers are less

struct EntryCode {
  std::span<const std::uint8_t> code;  // runs at any address
  std::uint32_t batch;  // entry for a list; where it goes on behind a call that did not return as well
  std::uint32_t one;  // entry for one program, whose address is in `list`, r1 and r2 in `arguments`
  std::uint8_t list, end;  // registers, as words of UserRegs
  std::uint8_t arguments[2];
};
const EntryCode& entry_code(InstructionSet);

// A function that makes the call of a helper.
std::vector<std::uint8_t> helper_stub(InstructionSet, std::uint32_t number);

// What ends who runs into it, by a signal: a run of it fills room without a program.
std::vector<std::uint8_t> traps(InstructionSet, std::size_t bytes);

// Programs begin at multiples of this. `loops`: something in it jumps back; loops are fastest where lines of the cache
// begin.
constexpr std::uint32_t alignment(bool loops) { return loops ? 64 : 16; }

}  // namespace ramet::jit
