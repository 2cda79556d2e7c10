// What was wrong in other compilers of eBPF, by kind.
#include <gtest/gtest.h>

#include <array>
#include <cstring>

#include "tests/jit/assembler.hpp"
#include "tests/jit/native.hpp"

namespace ramet::jit::test {
namespace {

alignas(16) std::array<std::uint64_t, 64> words;

Interpreter reference() {
  Interpreter with;
  with.helper = [](std::uint32_t) -> Interpreter::Helper {
    return [](std::uint64_t a, std::uint64_t b, std::uint64_t c, std::uint64_t d, std::uint64_t e) {
      return a + 2 * b + 3 * c + 4 * d + 5 * e;
    };
  };
  with.address = [](Wide, std::uint32_t, std::uint32_t offset) {
    return reinterpret_cast<std::uint64_t>(words.data()) + offset;
  };
  return with;
}

// r0 of the program, which must be the same by both and leave the same words.
std::uint64_t run(Code code, std::uint64_t r1 = 0, std::uint64_t r2 = 0) {
  Program program;
  program.instructions = std::move(code);
  program.maps = 1;
  const auto checked = check(program,
                             {.helpers = std::vector<bool>(64, true), .variables = std::vector<bool>(4, true)});
  EXPECT_TRUE(checked) << checked.error().said();
  if (!checked) return 0;
  const auto before = words;
  const std::uint64_t expected = reference().run(*checked, r1, r2).value();
  const auto expected_words = words;
  words = before;
  EXPECT_EQ(run_native(program, reference(), r1, r2), expected);
  EXPECT_EQ(words, expected_words);
  return expected;
}

// Every register that can be written has a number of its own; the address of word 8 is in `base`.
Code with_registers(unsigned base) {
  Code code;
  for (unsigned r = 0; r < 10; ++r) wide(code, r, 0, 0x1111111111111111u * (r + 1));
  if (base < 10) wide(code, base, 2, std::uint64_t{64} << 32);
  return code;
}
// r0 becomes a sum in which every register counts, by its place.
void sum_up(Code& code) {
  for (unsigned r = 1; r < 10; ++r) code.insert(code.end(), {alu(kMul, 0, 31), alu_r(kAdd, 0, r)});
  code.push_back(leave());
}

constexpr std::uint64_t kPattern = 0x8877665544332211;

TEST(KnownBugs, AtomicsWithR0AsAddressSourceAndTarget) {
  for (const Size size : {kW, kDw})
    for (const std::int32_t operation :
         {atomic::kAdd, atomic::kOr, atomic::kAnd, atomic::kXor, atomic::kAdd | 1, atomic::kOr | 1, atomic::kAnd | 1,
          atomic::kXor | 1, atomic::kExchange, atomic::kCompareExchange})
      for (unsigned base = 0; base < 10; ++base)
        for (unsigned source = 0; source < 10; ++source) {
          SCOPED_TRACE(testing::Message() << "operation " << operation << " base r" << base << " source r" << source);
          words.fill(kPattern);
          Code code = with_registers(base);
          code.push_back(test::atomic(size, operation, base, 8, source));
          sum_up(code);
          run(code);
        }
}

TEST(KnownBugs, NarrowExchangesClearTheUpperBits) {
  words.fill(kPattern);
  Code code;
  wide(code, 1, 2, 0);
  code.insert(code.end(), {mov(0, -1), test::atomic(kW, atomic::kExchange, 1, 0, 0), leave()});
  EXPECT_EQ(run(code), 0x44332211u);
}

TEST(KnownBugs, A32BitCompareAndExchangeClearsTheUpperBitsAlsoWhereItSucceeds) {
  words.fill(kPattern);
  Code code;
  wide(code, 1, 2, 0);
  wide(code, 0, 0, 0xffffffff44332211);
  code.insert(code.end(), {mov(2, 7), test::atomic(kW, atomic::kCompareExchange, 1, 0, 2), leave()});
  EXPECT_EQ(run(code), 0x44332211u);
  EXPECT_EQ(words[0], 0x8877665500000007u);
}

TEST(KnownBugs, JumpsToTheFirstInstruction) {
  // The prologue is not run again: r10 and the frame stay.
  words.fill(0);
  Code code;
  wide(code, 6, 2, 0);
  code.insert(code.end(), {load(kDw, 7, 6, 0), alu(kAdd, 7, 1), store(kDw, 6, 0, 7), store(kDw, 10, -8, 7),
                           when(kLt, 7, 5, -7), load(kDw, 0, 10, -8), leave()});
  EXPECT_EQ(run(code), 5u);
}

TEST(KnownBugs, EveryRegisterAsBase) {
  for (unsigned base = 0; base <= 10; ++base)
    for (const int offset : {0, 1, 8, 127, 128, -1, -8, -128, -129})
      for (const Size size : {kB, kH, kW, kDw}) {
        if (base == 10 && (offset > -8 || offset < -128)) continue;
        SCOPED_TRACE(testing::Message() << "base r" << base << " offset " << offset);
        for (std::size_t n = 0; n < words.size(); ++n) words[n] = kPattern * (n + 1);
        Code code = with_registers(11);
        if (base < 10) wide(code, base, 2, std::uint64_t{200} << 32);
        code.insert(code.end(),
                    {store(size, base, offset, base == 10 ? 3 : base), store_immediate(size, base, offset, -2),
                     load(size, base == 10 ? 3 : base, base, offset)});
        sum_up(code);
        run(code);
      }
}

TEST(KnownBugs, TheSmallestNumberDividedByMinusOne) {
  for (const bool is_wide : {false, true})
    for (const Alu operation : {kDiv, kMod})
      for (const bool immediate : {false, true})
        for (unsigned dst = 0; dst < 10; ++dst)
          for (unsigned src = 0; src < 10; ++src) {
            Code code = with_registers(11);
            wide(code, src, 0, ~std::uint64_t{0});
            wide(code, dst, 0, is_wide ? std::uint64_t{1} << 63 : 0x80000000u);
            code.push_back(raw(operation | (is_wide ? 7u : 4u) | (immediate ? 0u : 8u), dst, immediate ? 0 : src, 1,
                               immediate ? -1 : 0));
            sum_up(code);
            run(code);
          }
}

TEST(KnownBugs, DivisionByZeroAndByWhatIsZeroIn32Bits) {
  for (const std::uint64_t divisor :
       {std::uint64_t{0}, std::uint64_t{1} << 32, std::uint64_t{3}, 0xffffffff00000001u, std::uint64_t{0xffffffff}})
    for (const unsigned opcode : {0x3cu, 0x3fu, 0x9cu, 0x9fu})
      for (const int is_signed : {0, 1})
        for (unsigned dst = 0; dst < 10; ++dst)
          for (unsigned src = 0; src < 10; ++src) {
            Code code = with_registers(11);
            wide(code, src, 0, divisor);
            code.push_back(raw(opcode, dst, src, is_signed));
            sum_up(code);
            run(code);
          }
  Code code{mov(1, -1), alu32(kMod, 1, 0), mov_r(0, 1), leave()};
  EXPECT_EQ(run(code), 0xffffffffu);
}

TEST(KnownBugs, ImmediatesAreExtendedByTheirSign) {
  EXPECT_EQ(run({mov(0, 1), mov(1, -5), when(kEq, 1, -5, 1), mov(0, 0), leave()}), 1u);
  EXPECT_EQ(run({mov(0, 1), mov(1, 5), when(kLt, 1, -5, 1), mov(0, 0), leave()}), 1u);
  EXPECT_EQ(run({mov(0, 1), mov(1, -1), when(kSet, 1, -0x7fffffff - 1, 1), mov(0, 0), leave()}), 1u);
  EXPECT_EQ(run({mov(0, -1), alu(kDiv, 0, -2), leave()}), 1u);
  EXPECT_EQ(run({mov(0, -20), alu(kDiv, 0, -3, 1), leave()}), 6u);
  EXPECT_EQ(run({mov(0, -1), alu(kAnd, 0, -256), leave()}), 0xffffffffffffff00u);
  EXPECT_EQ(run({mov(0, 3), alu(kMul, 0, -7), leave()}), std::uint64_t(-21));
  words.fill(0);
  Code code;
  wide(code, 1, 2, 0);
  code.insert(code.end(), {store_immediate(kDw, 1, 0, -2), load(kDw, 0, 1, 0), leave()});
  EXPECT_EQ(run(code), ~std::uint64_t{1});
}

TEST(KnownBugs, A32BitMoveLeavesNothingInTheUpperHalf) {
  for (unsigned dst = 0; dst < 10; ++dst)
    for (unsigned src = 0; src < 10; ++src)
      for (const int bits : {0, 8, 16}) {
        Code code = with_registers(11);
        wide(code, src, 0, kPattern);
        code.push_back(alu32_r(kMov, dst, src, bits));
        sum_up(code);
        run(code);
      }
  EXPECT_EQ(run({mov(1, -1), alu32_r(kMov, 0, 1), leave()}), 0xffffffffu);
  EXPECT_EQ(run({alu32(kMov, 0, -1), leave()}), 0xffffffffu);
}

TEST(KnownBugs, ShiftsByEveryRegister) {
  for (const Alu operation : {kLsh, kRsh, kArsh})
    for (const unsigned width : {0xcu, 0xfu})
      for (const std::int32_t count : {0, 1, 31, 32, 33, 63, 64, -1})
        for (unsigned dst = 0; dst < 10; ++dst)
          for (unsigned src = 0; src < 10; ++src) {
            Code code = with_registers(11);
            code.push_back(mov(src, count));
            if (dst != src) wide(code, dst, 0, kPattern);
            code.push_back(raw(operation | width, dst, src));
            sum_up(code);
            run(code);
          }
}

TEST(KnownBugs, ShiftsByImmediatesBeyondTheWidth) {
  for (const std::int32_t more : {0, 64, 128, 192, -64, 0x40000000}) {
    EXPECT_EQ(run({mov(0, 1), alu(kLsh, 0, 63 + more), alu(kArsh, 0, 60 + more), leave()}), 0xfffffffffffffff8);
    EXPECT_EQ(run({mov(0, -1), alu(kRsh, 0, 60 + more), leave()}), 15u);
    EXPECT_EQ(run({mov(0, 0xf8), alu32(kLsh, 0, 28 + more), alu32(kArsh, 0, 16 + more), leave()}), 0xffff8000);
    EXPECT_EQ(run({mov(0, -1), alu32(kRsh, 0, 28 + more / 2), leave()}), 15u);
    EXPECT_EQ(run({mov(1, 0x1234), mov_r(0, 1), alu32(kLsh, 0, 16 + more), alu32(kRsh, 0, 16 + more), leave()}),
              0x1234u)
        << "an idiom";
  }
}

TEST(KnownBugs, JumpsOfEveryLengthAroundTheLimits) {
  // What lies between is 0 to 60 instructions of 3 to 12 bytes, so every distance near 127 bytes occurs, both ways.
  const std::array<Instruction, 4> fillers = {alu_r(kAdd, 1, 2), alu(kAdd, 1, 1), alu(kAdd, 1, 0x12345678),
                                              alu_r(kLsh, 3, 5)};
  for (const Instruction& filler : fillers)
    for (int length = 0; length < 60; ++length) {
      Code code{mov(0, 1), mov(1, 0), mov(2, 3), mov(3, 1), mov(5, 1), mov(6, 0)};
      code.push_back(when(kEq, 6, 1, length));  // forward, not taken the first time
      code.insert(code.end(), static_cast<std::size_t>(length), filler);
      code.insert(code.end(),
                  {alu(kAdd, 0, 1), alu(kAdd, 6, 1), when(kLt, 6, 3, -length - 4), alu_r(kAdd, 0, 1), leave()});
      run(code);
      Code jumps{mov(0, 1), mov(1, 0), mov(2, 3), mov(3, 1), mov(5, 1), jump(length)};
      jumps.insert(jumps.end(), static_cast<std::size_t>(length), filler);
      jumps.insert(jumps.end(), {alu_r(kAdd, 0, 1), leave()});
      run(jumps);
    }
}

// Loops are moved to where they run well, which makes the jump over them longer.
TEST(KnownBugs, JumpsOfEveryLengthIntoALoopThatBeginsRightAfterThem) {
  for (int length = 1; length < 50; ++length)
    for (int before = 0; before < 8; ++before) {
      Code code{mov(0, 0), mov(1, 0)};
      for (int n = 0; n < before; ++n) code.push_back(alu(kXor, 0, 1));
      code.push_back(jump(length));
      for (int n = 0; n < length; ++n) code.push_back(alu(kAdd, 0, n));
      code.push_back(alu(kAdd, 1, 1));
      code.push_back(when(kLt, 1, 3, -length - 2));
      code.push_back(leave());
      run(code);
    }
}

TEST(KnownBugs, JumpsAcrossEachOtherKeepTheirTargets) {
  // Many short and long jumps whose lengths depend on each other.
  for (int gap = 8; gap < 40; ++gap) {
    Code code{mov(0, 0), mov(1, 1)};
    const int count = 120;
    for (int n = 0; n < count; ++n)
      code.push_back(when(n % 3 == 0 ? kEq : kNe, 1, n % 2, std::min(gap, count - 1 - n))),
          code.push_back(alu(kAdd, 0, n));
    code.push_back(leave());
    run(code);
  }
}

TEST(KnownBugs, LongJumps) {
  for (const bool forward : {true, false}) {
    const int length = 70000;
    Code code{mov(0, 1), mov(6, 0)};
    if (forward) code.push_back(jump_long(length));
    code.insert(code.end(), length, alu(kAdd, 0, 0x1234567));
    if (!forward) code.insert(code.end(), {alu(kAdd, 6, 1), when(kGt, 6, 2, 1), jump_long(-length - 3)});
    code.push_back(leave());
    run(code);
  }
}

// Farther than arm64's conditional jumps reach, by the instructions that become the longest code.
TEST(KnownBugs, ConditionalJumpsOverMoreThanAMebibyte) {
  const std::uint64_t input = 0x0807060504030201;
  const auto at = reinterpret_cast<std::uint64_t>(&input);
  const int length = 32000;
  const Instruction filler = raw(0x40, 0, 7, 0, 0x10001);
  for (const Instruction& condition :
       {when(kEq, 6, 0, length), when(kLt, 6, 1, length), when(kSet, 7, 1, length), when32(kNe, 7, 0, length)}) {
    Code code{mov(0, 1), mov(6, 0), mov(7, -0x10001), condition};
    code.insert(code.end(), length, filler);
    code.push_back(leave());
    EXPECT_EQ(run(code, at, 8), 1u);
  }
  Code code{mov(0, 1), mov(6, 0), mov(7, -0x10001)};
  code.insert(code.end(), length, filler);
  code.insert(code.end(), {alu(kAdd, 6, 1), when(kLt, 6, 3, -length - 2), when(kNe, 6, 3, -length - 3),
                           alu_r(kAdd, 0, 6), leave()});
  EXPECT_EQ(run(code, at, 8), 0x01020304u + 3);
}

TEST(KnownBugs, FramesOfNestedCallsAreApart) {
  // Each function keeps a word at r10-8 and one at r10-512 over its call, and r6 to r9.
  Code code;
  for (unsigned f = 0; f < kMostFrames; ++f) {
    code.insert(code.end(), {mov(6, std::int32_t(f)), mov(9, std::int32_t(f * 100)),
                             store_immediate(kDw, 10, -8, std::int32_t(f + 1)),
                             store_immediate(kDw, 10, -512, std::int32_t(f + 1000)),
                             f + 1 < kMostFrames ? call_function(6) : mov(0, 7), load(kDw, 1, 10, -8),
                             load(kDw, 2, 10, -512), alu_r(kAdd, 0, 1), alu_r(kMul, 0, 2), alu_r(kAdd, 0, 6), leave()});
  }
  run(code);
}

TEST(KnownBugs, HelpersGetFiveArgumentsAndAnAlignedStack) {
  EXPECT_EQ(run({mov(1, 1), mov(2, 2), mov(3, 3), mov(4, 4), mov(5, 5), call(1), leave()}), 55u);
  EXPECT_EQ(run({mov(1, 1), mov(2, 2), mov(3, 3), mov(4, 4), mov(5, 5), mov(6, 6), store_immediate(kDw, 10, -24, 1),
                 call(1), alu_r(kAdd, 0, 6), leave()}),
            61u);
}

TEST(KnownBugs, PacketLoadsEndTheProgramOutsideTheInput) {
  const std::array<std::uint8_t, 8> packet = {1, 2, 3, 4, 5, 6, 7, 8};
  const auto input = reinterpret_cast<std::uint64_t>(packet.data());
  const auto load_at = [&](unsigned size, std::int32_t at) {
    return run({mov(6, 99), raw(0x20 | size, 0, 0, 0, at), alu(kAdd, 0, 1), leave()}, input, 8);
  };
  EXPECT_EQ(load_at(kB, 7), 9u);
  EXPECT_EQ(load_at(kH, 6), 0x0709u);
  EXPECT_EQ(load_at(kW, 4), 0x05060709u);
  for (const std::int32_t at : {8, 7, 6, 5, -1, -4, 0x7fffffff}) EXPECT_EQ(load_at(kW, at), 0u);
  EXPECT_EQ(run({mov(7, 2), raw(0x48, 0, 7, 0, 1), leave()}, input, 8), 0x0405u);
  EXPECT_EQ(run({mov(7, -2), raw(0x48, 0, 7, 0, 3), leave()}, input, 8), 0x0203u);
  EXPECT_EQ(run({mov(7, -2), raw(0x48, 0, 7, 0, 1), mov(0, 5), leave()}, input, 8), 0u);
  EXPECT_EQ(run({raw(0x30, 0, 0, 0, 0), mov(0, 5), leave()}, 0, 0), 0u);
}

TEST(KnownBugs, ProgramsFromObjectsThatTakeAFunctionsAddress) {
  // lea/adr of a function, which a helper then calls by the C ABI.
  Interpreter with = reference();
  with.helper = [](std::uint32_t) -> Interpreter::Helper {
    return [](std::uint64_t f, std::uint64_t a, std::uint64_t, std::uint64_t, std::uint64_t) {
      return reinterpret_cast<std::uint64_t (*)(std::uint64_t, std::uint64_t)>(f)(a, 5) + 1;
    };
  };
  Program program;
  wide(program.instructions, 1, 4, 4);
  program.instructions.insert(program.instructions.end(),
                              {mov(2, 30), call(1), leave(), mov_r(6, 1), mov_r(0, 6), alu_r(kAdd, 0, 2), leave()});
  EXPECT_EQ(run_native(program, with), 36u);
}

}  // namespace
}  // namespace ramet::jit::test
