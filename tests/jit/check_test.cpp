// What is no program is refused, with the instruction and the reason.
#include "jit/check.hpp"

#include <gtest/gtest.h>

#include <random>

#include "tests/jit/assembler.hpp"

namespace ramet::jit::test {
namespace {

const Known kKnown{.helpers = {false, true, true}, .variables = {true}};

std::string refusal(Code code, std::uint32_t maps = 1) {
  const Program program{.name = {}, .section = {}, .instructions = std::move(code), .maps = maps};
  const auto checked = check(program, kKnown);
  return checked ? "" : checked.error().said();
}
void expect_refused(const Code& code, const std::string& said) { EXPECT_EQ(refusal(code), said); }

TEST(Check, TheTableHasTheInstructionsOfTheRfc) {
  unsigned count = 0;
  for (const Form& f : kForms) count += f.operation != Operation::None;
  // 2 * (12 * 2 + 1) arithmetic, 3 swaps, 2 * 11 * 2 conditions, 2 jumps, call, exit, 12 plain and 3 sign-extending
  // loads and stores, 2 atomics, 1 wide, 6 of packets.
  EXPECT_EQ(count, 50u + 3 + 44 + 4 + 12 + 3 + 2 + 1 + 6);
}

TEST(Check, AcceptsTheSmallestProgram) { EXPECT_EQ(refusal({mov(0, 0), leave()}), ""); }

TEST(Check, RefusesWhatIsNoInstruction) {
  expect_refused({}, "instruction 0: the program is empty");
  expect_refused({mov(0, 0), raw(0xff), leave()}, "instruction 1: unknown opcode 255");
  expect_refused({raw(0x8d), leave()}, "instruction 0: unknown opcode 141");  // a call by register
  expect_refused({raw(0x99, 1, 2), leave()}, "instruction 0: unknown opcode 153");  // a sign-extending load of 64 bits
}

TEST(Check, RefusesReservedFieldsThatAreNotZero) {
  expect_refused({raw(0x07, 1, 2, 0, 5), leave()}, "instruction 0: a reserved field is not zero: source");
  expect_refused({raw(0x0f, 1, 2, 1), leave()}, "instruction 0: a reserved field is not zero: offset");
  expect_refused({raw(0x0f, 1, 2, 0, 1), leave()}, "instruction 0: a reserved field is not zero: immediate");
  expect_refused({raw(0x95, 1)}, "instruction 0: a reserved field is not zero: destination");
  expect_refused({raw(0x87, 1, 0, 0, 1), leave()}, "instruction 0: a reserved field is not zero: immediate");
  expect_refused({raw(0x79, 1, 2, 0, 1), leave()}, "instruction 0: a reserved field is not zero: immediate");
  expect_refused({raw(0x3f, 1, 2, 2), leave()}, "instruction 0: unknown variant 2 of the operation (offset)");
  expect_refused({raw(0xbc, 1, 2, 32), leave()}, "instruction 0: unknown variant 32 of the operation (offset)");
  expect_refused({raw(0xb7, 1, 0, 8), leave()}, "instruction 0: unknown variant 8 of the operation (offset)");
  expect_refused({raw(0xd7, 1, 0, 0, 8), leave()}, "instruction 0: swaps 16, 32 or 64 bits, not 8");
  expect_refused({raw(0xdb, 1, 2, 0, 0x10), leave()}, "instruction 0: unknown atomic operation 16");
  expect_refused({raw(0x85, 0, 2, 0, 1), leave()}, "instruction 0: unknown kind 2 of call");
}

TEST(Check, RefusesRegistersThatAreNotThereOrNotToBeWritten) {
  expect_refused({raw(0xbf, 11, 1), leave()}, "instruction 0: there are registers r0 to r10 only");
  expect_refused({raw(0xbf, 1, 15), leave()}, "instruction 0: there are registers r0 to r10 only");
  expect_refused({alu(kAdd, 10, 8), leave()}, "instruction 0: r10 cannot be written");
  expect_refused({load(kDw, 10, 1, 0), leave()}, "instruction 0: r10 cannot be written");
  expect_refused({atomic(kDw, atomic::kExchange, 1, 0, 10), leave()}, "instruction 0: r10 cannot be written");
  EXPECT_EQ(refusal({mov(0, 0), atomic(kDw, atomic::kCompareExchange, 1, 0, 10), leave()}), "");
}

TEST(Check, RefusesJumpsOutOfTheProgramAndIntoWideLoads) {
  expect_refused({jump(1), leave()}, "instruction 0: a jump leads out of the program, to 2");
  expect_refused({mov(0, 0), jump(-3), leave()}, "instruction 1: a jump leads out of the program, to -1");
  expect_refused({jump_long(0x7fffffff), leave()}, "instruction 0: a jump leads out of the program, to 2147483648");
  expect_refused({when(kEq, 1, 0, 100), leave()}, "instruction 0: a jump leads out of the program, to 101");
  Code code{jump(1)};
  wide(code, 0, 0, 1);
  code.push_back(leave());
  expect_refused(code, "instruction 0: leads into the middle of the wide load at 1");
}

TEST(Check, RefusesWideLoadsThatAreNotWhole) {
  expect_refused({raw(0x18, 1)}, "instruction 0: the second half of a wide load is missing");
  expect_refused({raw(0x18, 1), leave()},
                 "instruction 1: the second half of a wide load has something besides its immediate");
  expect_refused({raw(0x18, 1, 7), raw(0), leave()}, "instruction 0: unknown kind 7 of wide load");
  expect_refused({raw(0x18, 1, 1, 0, 1), raw(0), leave()}, "instruction 0: there is no map 1");
  expect_refused({raw(0x18, 1, 3, 0, 1), raw(0), leave()}, "instruction 0: there is no variable 1");
  expect_refused({raw(0x18, 1, 1), raw(0, 0, 0, 0, 4), leave()},
                 "instruction 1: a reserved field is not zero: immediate");
  expect_refused({mov(0, 0), raw(0x18, 1)}, "instruction 1: the second half of a wide load is missing");
}

TEST(Check, RefusesProgramsThatFallOffTheirEnd) {
  expect_refused({mov(0, 0)}, "instruction 0: execution falls off the end of the function");
  expect_refused({when(kEq, 0, 0, -1)}, "instruction 0: execution falls off the end of the function");
  expect_refused({mov(0, 0), call_function(1), leave(), mov(0, 0)},
                 "instruction 3: execution falls off the end of the function");
  expect_refused({call_function(0), mov(0, 0), leave()}, "instruction 0: execution falls off the end of the function");
}

TEST(Check, TakesShiftsBeyondTheWidthAndDivisionByZero) {
  EXPECT_EQ(refusal({alu(kLsh, 1, 64), alu32(kRsh, 1, 32), alu(kArsh, 1, -1), leave()}), "");
  EXPECT_EQ(refusal({alu(kDiv, 1, 0), alu32(kMod, 1, 0, 1), leave()}), "");
}

TEST(Check, RefusesWhatIsNotKnown) {
  expect_refused({call(0), leave()}, "instruction 0: unknown helper 0");
  expect_refused({call(3), leave()}, "instruction 0: unknown helper 3");
  expect_refused({call(-1), leave()}, "instruction 0: unknown helper 4294967295");
  EXPECT_EQ(refusal({call(1), leave()}), "");
}

TEST(Check, RefusesRecursionAndDeepNesting) {
  expect_refused({call_function(-1), leave()}, "instruction 0: functions call each other in a circle");
  expect_refused({call_function(1), leave(), call_function(1), leave(), call_function(-3), leave()},
                 "instruction 2: functions call each other in a circle");
  Code code;
  for (unsigned n = 0; n < kMostFrames - 1; ++n) code.insert(code.end(), {call_function(1), leave()});
  code.insert(code.end(), {mov(0, 1), leave()});
  EXPECT_EQ(refusal(code), "");
  code.insert(code.begin(), {call_function(1), leave()});
  expect_refused(code, "instruction 14: calls nest more than 8 deep");
}

TEST(Check, RefusesStackOutsideTheFrame) {
  expect_refused({store_immediate(kDw, 10, -520, 0), leave()},
                 "instruction 0: r10-520 is outside the function's 512 bytes of stack");
  expect_refused({store_immediate(kDw, 10, -4, 0), leave()},
                 "instruction 0: r10-4 is outside the function's 512 bytes of stack");
  expect_refused({load(kB, 0, 10, 0), leave()}, "instruction 0: r10+0 is outside the function's 512 bytes of stack");
  EXPECT_EQ(refusal({store_immediate(kDw, 10, -512, 0), load(kB, 0, 10, -1), leave()}), "");
}

TEST(Check, RefusesJumpsIntoOtherFunctionsAndPacketsThere) {
  expect_refused({call_function(1), leave(), jump(-2)}, "instruction 2: a jump leads into another function, to 1");
  expect_refused({call_function(1), leave(), raw(0x20), leave()},
                 "instruction 2: a legacy packet load outside the program's first function");
}

TEST(Check, FindsFunctionsAndTheStackThatTheyTouch) {
  Program program;
  program.instructions = {
      store_immediate(kDw, 10, -24, 1), call_function(1), leave(), mov_r(6, 10), alu_r(kMov, 0, 6), leave()};
  const auto checked = check(program, kKnown);
  ASSERT_TRUE(checked) << checked.error().said();
  ASSERT_EQ(checked->functions().size(), 2u);
  EXPECT_EQ(checked->functions()[0].stack, 24);
  EXPECT_TRUE(checked->functions()[0].calls);
  EXPECT_EQ(checked->functions()[1].stack, 512);
  EXPECT_EQ(checked->functions()[1].written, 1u << 6 | 1u << 0);
}

TEST(Check, TakesAnyBytes) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  std::vector<unsigned> opcodes;
  for (unsigned n = 0; n < 256; ++n)
    if (kForms[n].operation != Operation::None) opcodes.push_back(n);
  unsigned accepted = 0;
  for (unsigned round = 0; round < 20000; ++round) {
    Code code(1 + random() % 12);
    for (Instruction& i : code) {
      const std::uint64_t r = random();
      const auto small = static_cast<std::int32_t>(r >> 40) % 4;
      i = round % 2 ? std::bit_cast<Instruction>(r)
                    : raw(opcodes[r % opcodes.size()], r >> 8 & 3, (r >> 10) % 3 ? 0 : r >> 12 & 3,
                          (r >> 16) % 3 ? 0 : small, (r >> 20) % 2 ? 0 : small);
    }
    if (random() % 2) code.back() = leave();
    accepted += refusal(code).empty();
  }
  EXPECT_GT(accepted, 10u);
}

}  // namespace
}  // namespace ramet::jit::test
