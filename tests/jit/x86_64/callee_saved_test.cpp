// Compiled programs keep the registers that the C ABI says, whatever of their own they use.
#include <gtest/gtest.h>

#include "tests/jit/assembler.hpp"
#include "tests/jit/native.hpp"

namespace ramet::jit::test {
namespace {

// What rbx, rbp and r12 to r15 are after a call, each of which held a number of its own before.
std::array<std::uint64_t, 6> registers_after(const void* function) {
  std::array<std::uint64_t, 6> after{};
  // In the order rbx, rbp, r12, r13, r14, r15; rsp is as it was, or the pops give nonsense.
  asm volatile(
      "sub $128, %%rsp\n push %%rbx\n push %%rbp\n push %%r12\n push %%r13\n push %%r14\n push %%r15\n push %1\n push %0\n"
      "mov %0, %%rax\n mov $1, %%ebx\n mov $2, %%ebp\n mov $3, %%r12d\n mov $4, %%r13d\n mov $5, %%r14d\n mov $6, %%r15d\n"
      "call *%%rax\n"
      "pop %%rax\n pop %%rax\n"
      "mov %%rbx, (%%rax)\n mov %%rbp, 8(%%rax)\n mov %%r12, 16(%%rax)\n mov %%r13, 24(%%rax)\n mov %%r14, 32(%%rax)\n mov %%r15, 40(%%rax)\n"
      "pop %%r15\n pop %%r14\n pop %%r13\n pop %%r12\n pop %%rbp\n pop %%rbx\n add $128, %%rsp\n"
      :
      : "r"(function), "r"(after.data())
      : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
  return after;
}

TEST(CalleeSaved, AreKeptByProgramsThatUseAnyOfTheirs) {
  Native native;
  for (unsigned used = 0; used < 64; ++used) {
    Program program;
    Code& code = program.instructions;
    for (unsigned r = 0; r < 4; ++r)
      if (used >> r & 1) code.push_back(mov(6 + r, -1));
    if (used & 16) code.insert(code.end(), {store_immediate(kDw, 10, -40, -1), mov_r(0, 10)});
    if (used & 32)  // a word of the frame that lives in a register, unless its address is taken
      for (int n = 0; n < 3; ++n) code.push_back(store_immediate(kDw, 10, -8, -1));
    code.push_back(mov(0, 0));
    if (used % 3 == 0) code.push_back(leave());
    code.insert(code.end(), {when(kEq, 0, 1, 1), leave(), mov(0, 2), leave()});
    const auto checked = check(program, {});
    ASSERT_TRUE(checked);
    const void* placed = native.place(compile(*checked, InstructionSet::X86_64), {});
    EXPECT_EQ(registers_after(placed), (std::array<std::uint64_t, 6>{1, 2, 3, 4, 5, 6})) << used;
  }
}

}  // namespace
}  // namespace ramet::jit::test
