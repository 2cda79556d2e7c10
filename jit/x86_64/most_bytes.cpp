// How many bytes an instruction takes at most. Instructions that are translated together take no more than separately.
#include <array>

#include "jit/x86_64/compiler.hpp"

namespace ramet::jit::x86 {
namespace {

using enum Operation;

struct Most {
  std::uint8_t bytes = 0;
  std::uint8_t immediate = 0, offset = 0;  // bytes saved if that field fits in 8 bits
};

Most most(const Form& f) {
  const bool by_register = f.operand == Operand::Register;
  switch (f.operation) {
    case None: return {};  // second half of a wide load
    case Add:
    case Or:
    case And:
    case Sub:
    case Xor: return by_register ? Most{3} : Most{7, 3};
    case Mul: return by_register ? Most{4} : Most{7, 2};
    case Mov: return by_register ? Most{4} : Most{7};
    case Lsh:
    case Rsh:
    case Arsh: return by_register ? Most{12} : Most{4};
    case Neg: return {3};
    case Div:
    case Mod: return {64};
    case ToLittle:
    case ToBig:
    case Swap: return {9};
    case Load:
    case LoadSigned: return {8, 0, 3};
    case Store: return {8, 0, 3};
    case StoreImmediate: return {12, 0, 3};
    case Atomic: return {44};
    case LoadWide: return {10};
    case PacketAbsolute:
    case PacketIndirect: return {48 + kMostEpilogue};
    case Jump: return {10};  // in a conditional move, with the code that loads its immediate
    case JumpLong: return {5};
    case Call: return {5};
    case Exit: return {kMostEpilogue};
    default: return by_register ? Most{9} : Most{13, 3};  // conditions
  }
}

using Table = std::array<std::array<std::uint8_t, 4>, 256>;

Table table() {
  Table t{};
  for (unsigned n = 0; n < 256; ++n) {
    const Most m = most(kForms[n]);
    for (unsigned fits = 0; fits < 4; ++fits)
      t[n][fits] = static_cast<std::uint8_t>(m.bytes - (fits & 1 ? m.immediate : 0) - (fits & 2 ? m.offset : 0));
  }
  return t;
}

const Table kMost = table();  // by opcode, and by which fields fit 8 bits: 1 the immediate, 2 the offset

}  // namespace

std::uint32_t Compiler::estimate() {
  const auto before = [](std::uint8_t marks) {
    return (marks & mark::kLoop ? kLine - 1 : 0) + (marks & mark::kFunction ? kMostPrologue : 0);
  };
  const auto most = [](const Instruction& i) {
    return kMost[i.opcode][unsigned{fits8(i.immediate)} | unsigned{fits8(i.offset)} << 1];
  };
  return add_up(before, most, kStub) + 16;  // put() stores more than it keeps
}

}  // namespace ramet::jit::x86
