// What the compiler for x86-64 writes, as Zydis reads it.
#include <Zydis/Zydis.h>
#include <gtest/gtest.h>

#include <array>
#include <random>
#include <set>

#include "jit/compiler.hpp"
#include "jit/entry_code.hpp"
#include "jit/loader.hpp"
#include "jit/x86_64/encoder.hpp"
#include "tests/jit/objects.hpp"
#include "tests/jit/random_program.hpp"

namespace ramet::jit::test {
namespace {

using namespace x86;

struct Decoded {
  ZydisDecodedInstruction i;
  ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
};

std::optional<Decoded> decode(std::span<const std::uint8_t> bytes) {
  static const ZydisDecoder decoder = [] {
    ZydisDecoder d;
    ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    return d;
  }();
  Decoded d;
  if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes.data(), bytes.size(), &d.i, d.operands)))
    return std::nullopt;
  return d;
}

// Registers by their number, of a width in bits.
ZydisRegister register_of(unsigned number, unsigned bits) {
  const ZydisRegisterClass kind = bits == 8    ? ZYDIS_REGCLASS_GPR8
                                  : bits == 16 ? ZYDIS_REGCLASS_GPR16
                                  : bits == 32 ? ZYDIS_REGCLASS_GPR32
                                               : ZYDIS_REGCLASS_GPR64;
  // Of 8 bits, Zydis counts ah to bh between bl and spl.
  return ZydisRegisterEncode(kind, static_cast<ZyanU8>(bits == 8 && number >= 4 ? number + 4 : number));
}

// The encoder's forms, each written alone.
class X86Form : Encoder {
 public:
  template <class Write>
  std::optional<Decoded> written(const Write& write) {
    at_ = bytes_.data();
    write(*this);
    auto decoded = decode({bytes_.data(), static_cast<std::size_t>(at_ - bytes_.data())});
    if (decoded && decoded->i.length != at_ - bytes_.data()) decoded.reset();
    return decoded;
  }
  using Encoder::immediate;
  using Encoder::memory;
  using Encoder::mov;
  using Encoder::mov_address;
  using Encoder::mov_immediate;
  using Encoder::nop;
  using Encoder::pop;
  using Encoder::push;
  using Encoder::put;
  using Encoder::registers;
  using Encoder::shift;

 private:
  std::array<std::uint8_t, 64> bytes_;
};

struct Meant {
  Op op;
  ZydisMnemonic mnemonic;
  unsigned reg_bits, rm_bits;  // of the register, and of the other operand
  bool reg_first;              // the register is what is written
};

// Opcodes that have a register and another operand, as the compiler uses them.
const Meant kMeant[] = {
    {{.bytes = 0x89}, ZYDIS_MNEMONIC_MOV, 32, 32, false},
    {{.bytes = 0x89, .half = true}, ZYDIS_MNEMONIC_MOV, 16, 16, false},
    {{.bytes = 0x8b}, ZYDIS_MNEMONIC_MOV, 32, 32, true},
    {{.bytes = 0x88, .byte_register = true}, ZYDIS_MNEMONIC_MOV, 8, 8, false},
    {{.bytes = 0x01}, ZYDIS_MNEMONIC_ADD, 32, 32, false},
    {{.bytes = 0x09}, ZYDIS_MNEMONIC_OR, 32, 32, false},
    {{.bytes = 0x21}, ZYDIS_MNEMONIC_AND, 32, 32, false},
    {{.bytes = 0x29}, ZYDIS_MNEMONIC_SUB, 32, 32, false},
    {{.bytes = 0x31}, ZYDIS_MNEMONIC_XOR, 32, 32, false},
    {{.bytes = 0x39}, ZYDIS_MNEMONIC_CMP, 32, 32, false},
    {{.bytes = 0x03}, ZYDIS_MNEMONIC_ADD, 32, 32, true},
    {{.bytes = 0x0b}, ZYDIS_MNEMONIC_OR, 32, 32, true},
    {{.bytes = 0x23}, ZYDIS_MNEMONIC_AND, 32, 32, true},
    {{.bytes = 0x2b}, ZYDIS_MNEMONIC_SUB, 32, 32, true},
    {{.bytes = 0x33}, ZYDIS_MNEMONIC_XOR, 32, 32, true},
    {{.bytes = 0x3b}, ZYDIS_MNEMONIC_CMP, 32, 32, true},
    {{.bytes = 0x440f, .length = 2}, ZYDIS_MNEMONIC_CMOVZ, 32, 32, true},
    {{.bytes = 0x4f0f, .length = 2}, ZYDIS_MNEMONIC_CMOVNLE, 32, 32, true},
    {{.bytes = 0x85}, ZYDIS_MNEMONIC_TEST, 32, 32, false},
    {{.bytes = 0xaf0f, .length = 2}, ZYDIS_MNEMONIC_IMUL, 32, 32, true},
    {{.bytes = 0xb60f, .length = 2, .byte_register = true}, ZYDIS_MNEMONIC_MOVZX, 32, 8, true},
    {{.bytes = 0xb70f, .length = 2}, ZYDIS_MNEMONIC_MOVZX, 32, 16, true},
    {{.bytes = 0xbe0f, .length = 2, .byte_register = true}, ZYDIS_MNEMONIC_MOVSX, 32, 8, true},
    {{.bytes = 0xbf0f, .length = 2}, ZYDIS_MNEMONIC_MOVSX, 32, 16, true},
};
const Meant kMemoryOnly[] = {
    {{.bytes = 0x8d}, ZYDIS_MNEMONIC_LEA, 32, 0, true},
    {{.bytes = 0x01, .lock = true}, ZYDIS_MNEMONIC_ADD, 32, 32, false},
    {{.bytes = 0x09, .lock = true}, ZYDIS_MNEMONIC_OR, 32, 32, false},
    {{.bytes = 0x21, .lock = true}, ZYDIS_MNEMONIC_AND, 32, 32, false},
    {{.bytes = 0x31, .lock = true}, ZYDIS_MNEMONIC_XOR, 32, 32, false},
    {{.bytes = 0xc10f, .length = 2, .lock = true}, ZYDIS_MNEMONIC_XADD, 32, 32, false},
    {{.bytes = 0xb10f, .length = 2, .lock = true}, ZYDIS_MNEMONIC_CMPXCHG, 32, 32, false},
    {{.bytes = 0x87}, ZYDIS_MNEMONIC_XCHG, 32, 32, false},
};

// With and without REX.W; what has none of these widths is the same in both.
std::vector<Meant> both_widths(const Meant& m) {
  std::vector<Meant> all{m};
  if (m.op.half || (m.reg_bits == 8)) return all;
  Meant wide = m;
  wide.op.wide = true;
  wide.reg_bits = 64;
  if (m.rm_bits == 32) wide.rm_bits = 64;
  all.push_back(wide);
  return all;
}

void expect_register(const ZydisDecodedOperand& o, unsigned number, unsigned bits) {
  EXPECT_EQ(o.type, ZYDIS_OPERAND_TYPE_REGISTER);
  EXPECT_EQ(o.reg.value, register_of(number, bits));
}

void expect_registers(const Meant& m) {
  for (unsigned reg = 0; reg < 16; ++reg)
    for (unsigned rm = 0; rm < 16; ++rm) {
      SCOPED_TRACE(testing::Message() << std::hex << m.op.bytes << " reg " << reg << " rm " << rm);
      const auto d = X86Form().written([&](X86Form& e) { e.registers(m.op, reg, rm); });
      ASSERT_TRUE(d);
      EXPECT_EQ(d->i.mnemonic, m.mnemonic);
      expect_register(d->operands[m.reg_first ? 0 : 1], reg, m.reg_bits);
      expect_register(d->operands[m.reg_first ? 1 : 0], rm, m.rm_bits);
    }
}

TEST(X86Forms, TwoRegisters) {
  for (const Meant& plain : kMeant)
    for (const Meant& m : both_widths(plain)) expect_registers(m);
  expect_registers({{.bytes = 0x63, .wide = true}, ZYDIS_MNEMONIC_MOVSXD, 64, 32, true});
}

void expect_memory(const Meant& m, unsigned reg, const Address& a) {
  SCOPED_TRACE(testing::Message() << std::hex << m.op.bytes << " reg " << reg << " base " << a.base << " index "
                                  << a.index << " scale " << a.scale << " + " << a.displacement);
  const auto d = X86Form().written([&](X86Form& e) { e.memory(m.op, reg, a); });
  ASSERT_TRUE(d);
  EXPECT_EQ(d->i.mnemonic, m.mnemonic);
  EXPECT_EQ((d->i.attributes & ZYDIS_ATTRIB_HAS_LOCK) != 0, m.op.lock);
  expect_register(d->operands[m.reg_first ? 0 : 1], reg, m.reg_bits);
  const auto& o = d->operands[m.reg_first ? 1 : 0];
  ASSERT_EQ(o.type, ZYDIS_OPERAND_TYPE_MEMORY);
  EXPECT_EQ(o.mem.base, a.base == Address::kNone ? ZYDIS_REGISTER_NONE : register_of(a.base, 64));
  EXPECT_EQ(o.mem.index, a.index == Address::kNone ? ZYDIS_REGISTER_NONE : register_of(a.index, 64));
  if (a.index != Address::kNone) {
    EXPECT_EQ(o.mem.scale, 1u << a.scale);
  }
  EXPECT_EQ(o.mem.disp.has_displacement ? o.mem.disp.value : 0, a.displacement);
  if (m.rm_bits != 0) {
    EXPECT_EQ(o.size, m.rm_bits);
  }
}

void expect_memory(const Meant& m) {
  for (const int displacement : {0, 1, -1, 127, 128, -128, -129, 32767, -32768, 0x7fffffff, -0x7fffffff - 1})
    for (unsigned reg = 0; reg < 16; ++reg)
      for (unsigned base = 0; base < 16; ++base) {
        if ((base & 7) == rsp) continue;  // no register of the program is there
        expect_memory(m, reg, {.base = base, .displacement = displacement});
        const unsigned index = (base * 7 + reg) % 16;
        if (index == rsp) continue;
        expect_memory(m, reg, {.base = base, .index = index, .scale = reg % 4, .displacement = displacement});
        expect_memory(m, reg, {.index = index, .scale = reg % 4, .displacement = displacement});
      }
}

TEST(X86Forms, RegisterAndMemory) {
  for (const Meant& plain : kMeant)
    for (const Meant& m : both_widths(plain)) expect_memory(m);
  for (const Meant& plain : kMemoryOnly)
    for (const Meant& m : both_widths(plain)) expect_memory(m);
  expect_memory({{.bytes = 0x63, .wide = true}, ZYDIS_MNEMONIC_MOVSXD, 64, 32, true});
}

TEST(X86Forms, RegisterAndImmediate) {
  constexpr std::pair<unsigned, ZydisMnemonic> kDigits[] = {{0, ZYDIS_MNEMONIC_ADD}, {1, ZYDIS_MNEMONIC_OR},
                                                            {4, ZYDIS_MNEMONIC_AND}, {5, ZYDIS_MNEMONIC_SUB},
                                                            {6, ZYDIS_MNEMONIC_XOR}, {7, ZYDIS_MNEMONIC_CMP}};
  for (const auto& [digit, mnemonic] : kDigits)
    for (const bool is_wide : {false, true})
      for (unsigned rm = 0; rm < 16; ++rm)
        for (const std::int32_t value : {0, 1, -1, 127, 128, -128, -129, 0x7fffffff, -0x7fffffff - 1}) {
          const auto d = X86Form().written([&](X86Form& e) { e.immediate(digit, rm, value, is_wide); });
          ASSERT_TRUE(d);
          EXPECT_EQ(d->i.mnemonic, mnemonic);
          expect_register(d->operands[0], rm, is_wide ? 64 : 32);
          EXPECT_EQ(static_cast<std::int32_t>(d->operands[1].imm.value.s), value);
        }
}

TEST(X86Forms, ShiftsAndOneOperand) {
  constexpr std::pair<unsigned, ZydisMnemonic> kShifts[] = {{0, ZYDIS_MNEMONIC_ROL},
                                                            {4, ZYDIS_MNEMONIC_SHL},
                                                            {5, ZYDIS_MNEMONIC_SHR},
                                                            {7, ZYDIS_MNEMONIC_SAR}};
  constexpr std::pair<unsigned, ZydisMnemonic> kGroup[] = {{2, ZYDIS_MNEMONIC_NOT},
                                                           {3, ZYDIS_MNEMONIC_NEG},
                                                           {6, ZYDIS_MNEMONIC_DIV},
                                                           {7, ZYDIS_MNEMONIC_IDIV}};
  for (const bool is_wide : {false, true})
    for (unsigned rm = 0; rm < 16; ++rm) {
      const unsigned bits = is_wide ? 64 : 32;
      for (const auto& [digit, mnemonic] : kShifts) {
        for (unsigned count = 1; count < bits; ++count) {
          const auto d = X86Form().written([&](X86Form& e) { e.shift(digit, rm, count, is_wide); });
          ASSERT_TRUE(d);
          EXPECT_EQ(d->i.mnemonic, mnemonic);
          expect_register(d->operands[0], rm, bits);
          EXPECT_EQ(d->operands[1].imm.value.u, count);
        }
        const auto by_register = X86Form().written(
            [&](X86Form& e) { e.registers({.bytes = 0xd3, .wide = is_wide}, digit, rm); });
        ASSERT_TRUE(by_register);
        EXPECT_EQ(by_register->i.mnemonic, mnemonic);
        expect_register(by_register->operands[1], rcx, 8);
      }
      for (const auto& [digit, mnemonic] : kGroup) {
        const auto d = X86Form().written([&](X86Form& e) { e.registers({.bytes = 0xf7, .wide = is_wide}, digit, rm); });
        ASSERT_TRUE(d);
        EXPECT_EQ(d->i.mnemonic, mnemonic);
        expect_register(d->operands[0], rm, bits);
      }
    }
}

TEST(X86Forms, NumbersInRegisters) {
  for (unsigned to = 0; to < 16; ++to)
    for (const std::uint64_t value :
         {std::uint64_t{1}, std::uint64_t{0x7fffffff}, std::uint64_t{0x80000000}, std::uint64_t{0xffffffff},
          std::uint64_t{0x100000000}, 0xffffffff80000000u, ~std::uint64_t{0}, 0x123456789abcdef0u}) {
      const auto d = X86Form().written([&](X86Form& e) { e.mov_immediate(to, value); });
      ASSERT_TRUE(d);
      EXPECT_EQ(d->i.mnemonic, ZYDIS_MNEMONIC_MOV);
      EXPECT_EQ(ZydisRegisterGetId(d->operands[0].reg.value), static_cast<int>(to));
      const bool is_wide = ZydisRegisterGetClass(d->operands[0].reg.value) == ZYDIS_REGCLASS_GPR64;
      EXPECT_EQ(is_wide ? d->operands[1].imm.value.u : d->operands[1].imm.value.u & 0xffffffff, value);
    }
  for (unsigned length = 1; length <= 9; ++length) {
    const auto d = X86Form().written([&](X86Form& e) { e.nop(length); });
    ASSERT_TRUE(d);
    EXPECT_EQ(d->i.mnemonic, ZYDIS_MNEMONIC_NOP);
    EXPECT_EQ(d->i.length, length);
  }
  for (unsigned reg = 0; reg < 16; ++reg) {
    EXPECT_EQ(X86Form().written([&](X86Form& e) { e.push(reg); })->i.mnemonic, ZYDIS_MNEMONIC_PUSH);
    const auto d = X86Form().written([&](X86Form& e) { e.pop(reg); });
    EXPECT_EQ(d->i.mnemonic, ZYDIS_MNEMONIC_POP);
    expect_register(d->operands[0], reg, 64);
  }
}

// All that a compiled program may consist of.
const std::set<ZydisMnemonic> kAllowedX86 = {
    ZYDIS_MNEMONIC_MOV,    ZYDIS_MNEMONIC_MOVZX,  ZYDIS_MNEMONIC_MOVSX,   ZYDIS_MNEMONIC_MOVSXD,
    ZYDIS_MNEMONIC_LEA,    ZYDIS_MNEMONIC_PUSH,   ZYDIS_MNEMONIC_POP,     ZYDIS_MNEMONIC_LEAVE,
    ZYDIS_MNEMONIC_RET,    ZYDIS_MNEMONIC_CALL,   ZYDIS_MNEMONIC_JMP,     ZYDIS_MNEMONIC_ADD,
    ZYDIS_MNEMONIC_SUB,    ZYDIS_MNEMONIC_OR,     ZYDIS_MNEMONIC_AND,     ZYDIS_MNEMONIC_XOR,
    ZYDIS_MNEMONIC_CMP,    ZYDIS_MNEMONIC_TEST,   ZYDIS_MNEMONIC_NEG,     ZYDIS_MNEMONIC_IMUL,
    ZYDIS_MNEMONIC_DIV,    ZYDIS_MNEMONIC_IDIV,   ZYDIS_MNEMONIC_CDQ,     ZYDIS_MNEMONIC_CQO,
    ZYDIS_MNEMONIC_SHL,    ZYDIS_MNEMONIC_SHR,    ZYDIS_MNEMONIC_SAR,     ZYDIS_MNEMONIC_ROL,
    ZYDIS_MNEMONIC_NOT,    ZYDIS_MNEMONIC_CMOVZ,  ZYDIS_MNEMONIC_CMOVNZ,  ZYDIS_MNEMONIC_CMOVB,
    ZYDIS_MNEMONIC_CMOVNB, ZYDIS_MNEMONIC_CMOVBE, ZYDIS_MNEMONIC_CMOVNBE, ZYDIS_MNEMONIC_CMOVL,
    ZYDIS_MNEMONIC_CMOVNL, ZYDIS_MNEMONIC_CMOVLE, ZYDIS_MNEMONIC_CMOVNLE, ZYDIS_MNEMONIC_BSWAP,
    ZYDIS_MNEMONIC_XADD,   ZYDIS_MNEMONIC_XCHG,   ZYDIS_MNEMONIC_CMPXCHG, ZYDIS_MNEMONIC_NOP,
    ZYDIS_MNEMONIC_JZ,     ZYDIS_MNEMONIC_JNZ,    ZYDIS_MNEMONIC_JB,      ZYDIS_MNEMONIC_JNB,
    ZYDIS_MNEMONIC_JBE,    ZYDIS_MNEMONIC_JNBE,   ZYDIS_MNEMONIC_JL,      ZYDIS_MNEMONIC_JNL,
    ZYDIS_MNEMONIC_JLE,    ZYDIS_MNEMONIC_JNLE};

void expect_sound_x86(const Compiled& compiled) {
  const auto code = compiled.code();
  std::vector<bool> starts(code.size());
  std::vector<std::pair<std::size_t, std::int64_t>> branches;
  for (std::size_t at = 0; at < code.size();) {
    const auto d = decode(code.subspan(at));
    ASSERT_TRUE(d) << "at " << at;
    ASSERT_TRUE(kAllowedX86.contains(d->i.mnemonic)) << ZydisMnemonicGetString(d->i.mnemonic) << " at " << at;
    starts[at] = true;
    if (d->operands[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE && d->operands[0].imm.is_relative)
      branches.push_back({at, static_cast<std::int64_t>(at) + d->i.length + d->operands[0].imm.value.s});
    at += d->i.length;
  }
  for (const auto& [at, target] : branches) {
    ASSERT_TRUE(target >= 0 && target < static_cast<std::int64_t>(code.size())) << "from " << at << " to " << target;
    ASSERT_TRUE(starts[static_cast<std::size_t>(target)]) << "from " << at << " to " << target;
  }
}

TEST(X86Programs, ConsistOfWhatWasMeantAndJumpWithinThemselves) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  const Known known{.helpers = std::vector<bool>(256, true), .variables = {}};
  for (unsigned n = 0; n < 500; ++n) {
    const Program program = random_program([&] { return static_cast<std::uint32_t>(random()); }, 100);
    const auto checked = check(program, known);
    ASSERT_TRUE(checked);
    ASSERT_NO_FATAL_FAILURE(expect_sound_x86(compile(*checked, InstructionSet::X86_64)));
  }
  const auto object = load_object(read_object("maps"));
  ASSERT_TRUE(object);
  for (const Program& program : object->programs)
    expect_sound_x86(compile(*check(program, known), InstructionSet::X86_64));
}

TEST(X86Entry, IsWhatItSays) {
  ZydisFormatter formatter;
  ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
  const auto text_of = [&](std::span<const std::uint8_t> code) {
    std::string all;
    for (std::size_t at = 0; at < code.size();) {
      const auto d = decode(code.subspan(at));
      char text[96] = "?";
      if (d)
        ZydisFormatterFormatInstruction(&formatter, &d->i, d->operands, d->i.operand_count_visible, text, sizeof text,
                                        at, nullptr);
      all += text + std::string("\n");
      at += d ? d->i.length : 1;
    }
    return all;
  };
  const EntryCode& entry = entry_code(InstructionSet::X86_64);
  EXPECT_EQ(
      text_of(entry.code),
      "cmp rbx, r12\njnb 0x000000000000001B\nmov rdi, [rbx+0x08]\nmov rsi, [rbx+0x10]\ncall [rbx]\nmov [rbx+0x18], rax\nadd rbx, 0x20\n"
      "jmp 0x0000000000000000\ncall rbx\nmov rdi, rax\nmov eax, 0xFFF\nsyscall\nud2\n");
  EXPECT_EQ(entry.batch, 0u);
  EXPECT_EQ(text_of(entry.code.subspan(entry.one, 2)), "call rbx\n");
  EXPECT_EQ(text_of(helper_stub(InstructionSet::X86_64, 6)), "mov r10, rcx\nmov eax, 0x1006\nsyscall\nret\n");
  EXPECT_EQ(text_of(traps(InstructionSet::X86_64, 2)), "int3\nint3\n");
}

}  // namespace
}  // namespace ramet::jit::test
