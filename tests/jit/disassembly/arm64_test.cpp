// What the compiler for arm64 writes, as Capstone reads it.
#include <capstone/capstone.h>
#include <gtest/gtest.h>

#include <array>
#include <random>
#include <set>
#include <string>

#include "jit/arm64/encoder.hpp"
#include "jit/compiler.hpp"
#include "jit/entry_code.hpp"
#include "jit/loader.hpp"
#include "tests/jit/objects.hpp"
#include "tests/jit/random_program.hpp"

namespace ramet::jit::test {
namespace {

csh capstone() {
  static const csh handle = [] {
    csh h;
    EXPECT_EQ(cs_open(CS_ARCH_ARM64, CS_MODE_ARM, &h), CS_ERR_OK);
    return h;
  }();
  return handle;
}

struct Text {
  std::string mnemonic, operands;
  std::string both() const { return operands.empty() ? mnemonic : mnemonic + " " + operands; }
};
std::optional<Text> decode(const std::uint8_t* at, std::uint64_t address) {
  cs_insn* instruction = nullptr;
  if (cs_disasm(capstone(), at, 4, address, 1, &instruction) != 1) return std::nullopt;
  Text text{instruction->mnemonic, instruction->op_str};
  cs_free(instruction, 1);
  return text;
}

// The encoder's forms, each written alone, at address 0.
class ArmForm : arm::Encoder {
 public:
  template <class Write>
  std::string written(const Write& write) {
    at_ = bytes_.data();
    write(*this);
    std::string all;
    for (const std::uint8_t* at = bytes_.data(); at < at_; at += 4) {
      const auto text = decode(at, static_cast<std::uint64_t>(at - bytes_.data()));
      all += (all.empty() ? "" : "; ") + (text ? text->both() : std::string("?"));
    }
    return all;
  }
  using E = arm::Encoder;
  using E::add_immediate, E::add_shifted, E::barrier, E::bits_signed, E::bits_unsigned, E::branch, E::branch_if, E::branch_zero, E::call, E::call_register,
      E::compare_immediate, E::compare_negative, E::here_address, E::indexed, E::load_exclusive, E::masked, E::memory, E::mov, E::mov_address,
      E::mov_immediate, E::multiply_add, E::multiply_subtract, E::pop_pair, E::push_pair, E::ret, E::reverse, E::reverse16, E::rotate_right, E::select,
      E::store_release_exclusive, E::subtract_immediate, E::three;
  using E::kAdd, E::kSub, E::kSubFlags, E::kAnd, E::kOr, E::kXor, E::kAndFlags, E::kLslv, E::kLsrv, E::kAsrv, E::kUdiv, E::kSdiv, E::kAndMask, E::kOrMask,
      E::kXorMask, E::kAndFlagsMask, E::kLoad, E::kLoadSigned, E::kStore;

 private:
  std::array<std::uint8_t, 64> bytes_;
};
template <class Write>
std::string written(const Write& write) {
  return ArmForm().written(write);
}

std::string reg(unsigned number, bool wide) { return number == 31 ? (wide ? "xzr" : "wzr") : (wide ? "x" : "w") + std::to_string(number); }
std::string number(std::uint64_t n) {
  char text[32];
  std::snprintf(text, sizeof text, n > 9 ? "#0x%llx" : "#%llu", static_cast<unsigned long long>(n));
  return text;
}
constexpr unsigned kRegs[] = {0, 1, 4, 7, 9, 12, 16, 19, 22, 28};

TEST(Arm64Forms, ThreeRegisters) {
  const std::pair<std::uint32_t, const char*> kAll[] = {
      {ArmForm::kAdd, "add"}, {ArmForm::kSub, "sub"}, {ArmForm::kAnd, "and"}, {ArmForm::kOr, "orr"}, {ArmForm::kXor, "eor"}, {ArmForm::kLslv, "lsl"},
      {ArmForm::kLsrv, "lsr"}, {ArmForm::kAsrv, "asr"}, {ArmForm::kUdiv, "udiv"}, {ArmForm::kSdiv, "sdiv"}, {ArmForm::kSubFlags, "subs"}, {ArmForm::kAndFlags, "ands"}};
  for (const auto& [op, name] : kAll)
    for (const bool wide : {false, true})
      for (const unsigned d : kRegs)
        for (const unsigned n : kRegs)
          for (const unsigned m : kRegs)
            EXPECT_EQ(written([&](ArmForm& e) { e.three(op, d, n, m, wide); }), std::string(name) + " " + reg(d, wide) + ", " + reg(n, wide) + ", " + reg(m, wide));
  EXPECT_EQ(written([](ArmForm& e) { e.three(ArmForm::kSubFlags, 31, 3, 4, true); }), "cmp x3, x4");
  EXPECT_EQ(written([](ArmForm& e) { e.three(ArmForm::kAndFlags, 31, 3, 4, false); }), "tst w3, w4");
  EXPECT_EQ(written([](ArmForm& e) { e.three(ArmForm::kSub, 3, 31, 4, false); }), "neg w3, w4");
  EXPECT_EQ(written([](ArmForm& e) { e.mov(3, 4, true), e.mov(5, 6, false); }), "mov x3, x4; mov w5, w6");
  EXPECT_EQ(written([](ArmForm& e) { e.multiply_add(1, 2, 3, 31, true); }), "mul x1, x2, x3");
  EXPECT_EQ(written([](ArmForm& e) { e.multiply_subtract(1, 2, 3, 4, false); }), "msub w1, w2, w3, w4");
  EXPECT_EQ(written([](ArmForm& e) { e.add_shifted(1, 2, 3, 3), e.add_shifted(1, 2, 3, 0); }), "add x1, x2, x3, lsl #3; add x1, x2, x3");
  EXPECT_EQ(written([](ArmForm& e) { e.select(1, 2, 3, arm::kNotEqual), e.select(19, 20, 31, arm::kLess); }), "csel x1, x2, x3, ne; csel x19, x20, xzr, lt");
}

TEST(Arm64Forms, Immediates) {
  for (const bool wide : {false, true})
    for (const unsigned value : {1u, 9u, 10u, 255u, 4095u}) {
      EXPECT_EQ(written([&](ArmForm& e) { e.add_immediate(1, 2, value, wide); }), "add " + reg(1, wide) + ", " + reg(2, wide) + ", " + number(value));
      EXPECT_EQ(written([&](ArmForm& e) { e.subtract_immediate(1, 2, value, wide); }), "sub " + reg(1, wide) + ", " + reg(2, wide) + ", " + number(value));
      EXPECT_EQ(written([&](ArmForm& e) { e.compare_immediate(2, value, wide); }), "cmp " + reg(2, wide) + ", " + number(value));
      EXPECT_EQ(written([&](ArmForm& e) { e.compare_negative(2, value, wide); }), "cmn " + reg(2, wide) + ", " + number(value));
    }
  EXPECT_EQ(written([](ArmForm& e) { e.add_immediate(31, 29, 0, true), e.add_immediate(29, 31, 0, true); }), "mov sp, x29; mov x29, sp");
}

// Every number that has the form of a mask, and many that have not.
TEST(Arm64Forms, Masks) {
  unsigned masks = 0;
  const auto mask = [&](std::uint64_t value, bool wide) {
    const auto found = arm::mask_immediate(value, wide);
    if (!found) return;
    ++masks;
    if (!wide) value &= 0xffffffff;
    EXPECT_EQ(written([&](ArmForm& e) { e.masked(ArmForm::kAndMask, 1, 2, *found, wide); }), "and " + reg(1, wide) + ", " + reg(2, wide) + ", " + number(value));
    EXPECT_EQ(written([&](ArmForm& e) { e.masked(ArmForm::kXorMask, 1, 2, *found, wide); }), "eor " + reg(1, wide) + ", " + reg(2, wide) + ", " + number(value));
    EXPECT_EQ(written([&](ArmForm& e) { e.masked(ArmForm::kOrMask, 1, 2, *found, wide); }), "orr " + reg(1, wide) + ", " + reg(2, wide) + ", " + number(value));
    EXPECT_EQ(written([&](ArmForm& e) { e.masked(ArmForm::kAndFlagsMask, 31, 2, *found, wide); }), "tst " + reg(2, wide) + ", " + number(value));
  };
  for (const bool wide : {false, true})
    for (unsigned size = 2; size <= (wide ? 64u : 32u); size *= 2)
      for (unsigned length = 1; length < size; ++length)
        for (unsigned rotated = 0; rotated < size; ++rotated) {
          std::uint64_t pattern = (std::uint64_t{1} << length) - 1;
          if (rotated != 0) pattern = pattern >> rotated | pattern << (size - rotated);
          if (size < 64) pattern &= (std::uint64_t{1} << size) - 1;
          for (unsigned n = size; n < 64; n *= 2) pattern |= pattern << n;
          EXPECT_TRUE(arm::mask_immediate(pattern, wide));
          mask(pattern, wide);
        }
  EXPECT_EQ(masks, 5334u + 1302u);  // so many there are
  std::mt19937_64 random(1);
  for (unsigned n = 0; n < 2000; ++n) mask(random(), n % 2), mask(n, n % 2);
  EXPECT_FALSE(arm::mask_immediate(0, true));
  EXPECT_FALSE(arm::mask_immediate(~std::uint64_t{0}, true));
  EXPECT_FALSE(arm::mask_immediate(0xffffffff, false));
}

TEST(Arm64Forms, FieldsAndReversals) {
  for (const bool wide : {false, true}) {
    const unsigned width = wide ? 64 : 32;
    const std::string d = reg(1, wide) + ", " + reg(2, wide);
    for (unsigned n = 1; n < width; ++n) {
      EXPECT_EQ(written([&](ArmForm& e) { e.bits_unsigned(1, 2, width - n, width - 1 - n, wide); }), "lsl " + d + ", " + number(n));
      const std::string right = written([&](ArmForm& e) { e.bits_unsigned(1, 2, n, width - 1, wide); });
      EXPECT_EQ(right, "lsr " + d + ", " + number(n));
      EXPECT_EQ(written([&](ArmForm& e) { e.bits_signed(1, 2, n, width - 1, wide); }), "asr " + d + ", " + number(n));
      EXPECT_EQ(written([&](ArmForm& e) { e.rotate_right(1, 2, n, wide); }), "ror " + d + ", " + number(n));
    }
  }
  EXPECT_EQ(written([](ArmForm& e) { e.bits_signed(1, 2, 0, 7, true), e.bits_signed(1, 2, 0, 15, false), e.bits_signed(1, 2, 0, 31, true); }), "sxtb x1, w2; sxth w1, w2; sxtw x1, w2");
  EXPECT_EQ(written([](ArmForm& e) { e.bits_unsigned(1, 2, 0, 15, false), e.bits_unsigned(1, 2, 8, 39, true), e.bits_signed(1, 2, 56, 31, true); }), "uxth w1, w2; ubfx x1, x2, #8, #0x20; sbfiz x1, x2, #8, #0x20");
  EXPECT_EQ(written([](ArmForm& e) { e.reverse16(1, 2), e.reverse(1, 2, false), e.reverse(1, 2, true); }), "rev16 w1, w2; rev w1, w2; rev x1, x2");
}

TEST(Arm64Forms, NumbersInRegisters) {
  EXPECT_EQ(written([](ArmForm& e) { e.mov_immediate(1, 0); }), "movz x1, #0");
  EXPECT_EQ(written([](ArmForm& e) { e.mov_immediate(1, ~std::uint64_t{0}); }), "movn x1, #0");
  EXPECT_EQ(written([](ArmForm& e) { e.mov_immediate(1, 0x12345678); }), "movz x1, #0x5678; movk x1, #0x1234, lsl #16");
  EXPECT_EQ(written([](ArmForm& e) { e.mov_immediate(1, 0x123456789abcdef0); }), "movz x1, #0xdef0; movk x1, #0x9abc, lsl #16; movk x1, #0x5678, lsl #32; movk x1, #0x1234, lsl #48");
  EXPECT_EQ(written([](ArmForm& e) { e.mov_immediate(1, 0x00ff00ff00ff00ff); }), "orr x1, xzr, #0xff00ff00ff00ff");
  EXPECT_EQ(written([](ArmForm& e) { e.mov_immediate(1, 0xffffffff87654321); }), "movn x1, #0xbcde; movk x1, #0x8765, lsl #16");
  EXPECT_EQ(written([](ArmForm& e) { e.mov_address(3); }), "movz x3, #0; movk x3, #0, lsl #16; movk x3, #0, lsl #32; movk x3, #0, lsl #48");
}

TEST(Arm64Forms, Memory) {
  const char* const kLoads[] = {"ldrb", "ldrh", "ldr", "ldr"};
  const char* const kStores[] = {"strb", "strh", "str", "str"};
  const char* const kSigned[] = {"ldrsb", "ldrsh", "ldrsw"};
  const auto unscaled = [](std::string name) { return name.replace(2, 1, "ur"); };  // ldr -> ldur
  for (unsigned size = 0; size < 4; ++size)
    for (const int offset : {0, 1, -1, 8, 64, 255, 256, -256, -257, 4095, 4096, 32760, 32767, -32768}) {
      const auto expect = [&](std::uint32_t op, const char* name, bool wide) {
        const std::string t = reg(5, wide);
        const bool scales = offset >= 0 && offset % (1 << size) == 0 && offset >> size < 4096;
        const std::string near = offset == 0 ? "[x6]" : std::string("[x6, ") + (offset < 0 ? "#-" + number(static_cast<std::uint64_t>(-offset)).substr(1) : number(static_cast<std::uint64_t>(offset))) + "]";
        const std::string text = written([&](ArmForm& e) { e.memory(op, size, 5, 6, offset, 9); });
        if (scales) {
          EXPECT_EQ(text, std::string(name) + " " + t + ", " + near);
        } else if (offset >= -256 && offset < 256) {
          EXPECT_EQ(text, unscaled(name) + " " + t + ", " + near);
        } else {
          EXPECT_TRUE(text.ends_with(std::string(name) + " " + t + ", [x6, x9]")) << text;
        }
      };
      expect(ArmForm::kLoad, kLoads[size], size == 3);
      expect(ArmForm::kStore, kStores[size], size == 3);
      if (size < 3) expect(ArmForm::kLoadSigned, kSigned[size], true);
    }
  EXPECT_EQ(written([](ArmForm& e) { e.indexed(ArmForm::kLoad, 3, 1, 2, 3, true), e.indexed(ArmForm::kLoadSigned, 2, 1, 2, 3, true); }), "ldr x1, [x2, x3, lsl #3]; ldrsw x1, [x2, x3, lsl #2]");
  EXPECT_EQ(written([](ArmForm& e) { e.load_exclusive(1, 2, true), e.load_exclusive(1, 2, false); }), "ldxr x1, [x2]; ldxr w1, [x2]");
  EXPECT_EQ(written([](ArmForm& e) { e.store_release_exclusive(3, 1, 2, true), e.store_release_exclusive(3, 1, 2, false); }), "stlxr w3, x1, [x2]; stlxr w3, w1, [x2]");
  EXPECT_EQ(written([](ArmForm& e) { e.barrier(), e.push_pair(19, 20), e.pop_pair(29, 30); }), "dmb ish; stp x19, x20, [sp, #-0x10]!; ldp x29, x30, [sp], #0x10");
}

TEST(Arm64Forms, Jumps) {
  const char* const kNames[] = {"eq", "ne", "hs", "lo", "", "", "", "", "hi", "ls", "ge", "lt", "gt", "le"};
  for (unsigned condition = 0; condition < std::size(kNames); ++condition)
    if (*kNames[condition]) {
      EXPECT_EQ(written([&](ArmForm& e) { e.branch_if(condition, 4); }), std::string("b.") + kNames[condition] + " #0x10");
    }
  EXPECT_EQ(written([](ArmForm& e) { e.branch(5), e.call(7), e.ret(), e.call_register(16); }), "b #0x14; bl #0x20; ret; blr x16");
  EXPECT_EQ(written([](ArmForm& e) { e.branch_zero(true, 3, 2, true), e.branch_zero(false, 3, -1, false), e.here_address(4); }), "cbz x3, #8; cbnz w3, #0; adr x4, #8");
}

// All that a compiled program may consist of.
const std::set<std::string> kAllowedArm = {
    "add", "sub", "and", "orr", "eor", "mov", "movk", "neg", "csel", "mul", "msub", "udiv", "sdiv", "lsl", "lsr", "asr", "ror", "ubfx", "ubfiz", "sbfx", "sbfiz", "uxtb", "uxth",
    "sxtb", "sxth", "sxtw", "rev", "rev16", "cmp", "cmn", "tst", "b", "bl", "blr", "ret", "cbz", "cbnz", "adr", "ldr", "ldrb", "ldrh", "ldrsb", "ldrsh", "ldrsw",
    "ldur", "ldurb", "ldurh", "ldursb", "ldursh", "ldursw", "str", "strb", "strh", "stur", "sturb", "sturh", "stp", "ldp", "ldxr", "stlxr", "dmb", "lsl", "movz", "movn",
    "b.eq", "b.ne", "b.hs", "b.lo", "b.hi", "b.ls", "b.ge", "b.lt", "b.gt", "b.le"};

void expect_sound_arm(const Compiled& compiled) {
  const auto code = compiled.code();
  ASSERT_EQ(code.size() % 4, 0u);
  for (std::size_t at = 0; at < code.size(); at += 4) {
    const auto text = decode(code.data() + at, at);
    ASSERT_TRUE(text) << "at " << at;
    ASSERT_TRUE(kAllowedArm.contains(text->mnemonic)) << text->both() << " at " << at;
    const bool jumps = text->mnemonic == "b" || text->mnemonic == "bl" || text->mnemonic.starts_with("b.") || text->mnemonic.starts_with("cb");
    if (!jumps) continue;
    const std::size_t sign = text->operands.rfind('#');
    ASSERT_NE(sign, std::string::npos);
    const std::uint64_t target = std::stoull(text->operands.substr(sign + 1), nullptr, 0);
    ASSERT_LT(target, code.size()) << text->both() << " at " << at;
  }
}

TEST(Arm64Programs, ConsistOfWhatWasMeantAndJumpWithinThemselves) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  const Known known{.helpers = std::vector<bool>(256, true), .variables = {}};
  for (unsigned n = 0; n < 300; ++n) {
    const Program program = random_program([&] { return static_cast<std::uint32_t>(random()); }, 100);
    const auto checked = check(program, known);
    ASSERT_TRUE(checked);
    ASSERT_NO_FATAL_FAILURE(expect_sound_arm(compile(*checked, InstructionSet::Arm64)));
  }
  const auto object = load_object(read_object("maps"));
  ASSERT_TRUE(object);
  for (const Program& program : object->programs) expect_sound_arm(compile(*check(program, known), InstructionSet::Arm64));
}

TEST(ArmEntry, IsWhatItSays) {
  const auto text_of = [](std::span<const std::uint8_t> code) {
    std::string all;
    for (std::size_t at = 0; at < code.size(); at += 4) {
      const auto text = decode(code.data() + at, at);
      all += (text ? text->both() : "?") + "\n";
    }
    return all;
  };
  const EntryCode& entry = entry_code(InstructionSet::Arm64);
  EXPECT_EQ(text_of(entry.code),
            "cmp x19, x20\nb.hs #0x24\nldr x9, [x19]\nldp x0, x1, [x19, #8]\nblr x9\nstr x0, [x19, #0x18]\nadd x19, x19, #0x20\nb #0\n"
            "blr x19\nmovz w8, #0xfff\nsvc #0\nbrk #0\n");
  EXPECT_EQ(entry.batch, 0u);
  EXPECT_EQ(text_of(entry.code.subspan(entry.one, 4)), "blr x19\n");
  EXPECT_EQ(text_of(helper_stub(InstructionSet::Arm64, 6)), "movz w8, #0x1006\nsvc #0\nret\n");
  EXPECT_EQ(text_of(traps(InstructionSet::Arm64, 8)), "brk #0\nbrk #0\n");
}

}  // namespace
}  // namespace ramet::jit::test
