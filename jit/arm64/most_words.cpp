// How many words an instruction takes at most. Instructions that are translated together take no more than separately.
#include <array>

#include "jit/arm64/compiler.hpp"

namespace ramet::jit::arm {
namespace {

using enum Operation;

std::uint8_t most(const Form& f) {
  const bool by_register = f.operand == Operand::Register;
  switch (f.operation) {
    case None: return 0;  // second half of a wide load
    case Div:
    case Mod: return 5;
    case Mov: return by_register ? 1 : 3;
    case Lsh:
    case Rsh:
    case Arsh:
    case Neg: return 1;
    case ToLittle:
    case ToBig:
    case Swap: return 2;
    case Load:
    case LoadSigned:
    case Store: return 4;
    case StoreImmediate: return 7;
    case Atomic: return 4 + 7;
    case LoadWide: return 5;
    case PacketAbsolute:
    case PacketIndirect: return 13 + kMostEpilogue;
    case Jump: return 4;  // in a conditional move, with the words that load its immediate
    case JumpLong: return 1;
    case Call: return 6;
    case Exit: return kMostEpilogue;
    default: break;
  }
  if (is_condition(f.operation)) return by_register ? 3 : 6;
  return by_register ? 1 : 4;
}

std::array<std::uint8_t, 256> table() {
  std::array<std::uint8_t, 256> t{};
  for (unsigned n = 0; n < 256; ++n) t[n] = most(kForms[n]);
  return t;
}

const std::array<std::uint8_t, 256> kMost = table();

}  // namespace

std::uint32_t Compiler::estimate() {
  const auto before = [](std::uint8_t marks) { return marks & mark::kFunction ? 4 * kMostPrologue : 0; };
  return add_up(before, [](const Instruction& i) { return 4u * kMost[i.opcode]; }, 0);
}

}  // namespace ramet::jit::arm
