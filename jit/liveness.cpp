#include "jit/liveness.hpp"

#include <cstring>

namespace ramet::jit {

using enum Operation;

const Liveness::Tables Liveness::kTables;

Liveness::Tables::Tables() {
  for (unsigned n = 0; n < 256; ++n) {
    const Form& f = kForms[n];
    effects[n].reads = (f.reads_dst ? 0xffffu : 0u) | (f.operand == Operand::Register ? 0xffffu : 0u) << 16;
    effects[n].writes = f.writes_dst ? 0xffff : 0;
    effects[n].special = f.operation >= Atomic && f.operation != LoadWide;
    registers[n] = 1u << (n & 15) | 1u << (n >> 4) << 16;
  }
}

Liveness::Liveness(const Checked& program) : code_(program.instructions().data()) {
  const std::size_t count = program.instructions().size() + 1;
  alive_ = std::make_unique_for_overwrite<std::uint16_t[]>(count);
  std::memset(alive_.get(), 0xff, count * sizeof alive_[0]);
}

// What is alive before a special instruction, without what it reads by its form.
std::uint32_t Liveness::before_special(std::uint32_t at, std::uint32_t after) {
  const Instruction& i = code_[at];
  switch (form(i).operation) {
    case Jump: return target(at, i.offset);
    case JumpLong: return target(at, i.immediate);
    case Exit: return 1;
    // A function may read any register as its caller left it.
    case Operation::Call: return i.src() == static_cast<unsigned>(Callee::Function) ? kAll : (after & ~1u) | kArguments;
    case Atomic: return after | (i.immediate == atomic::kCompareExchange ? 1u : 0u);
    case PacketAbsolute:
    case PacketIndirect: return after & ~1u;
    default: return after | target(at, i.offset);  // conditions
  }
}

std::uint32_t Liveness::target(std::uint32_t at, std::int64_t distance) {
  if (distance < 0) back_.push_back(at);
  return alive_[at + 1 + distance];
}

// Each step but the last finds a register dead that counted as alive, so there are few steps.
void Liveness::converge() {
  const std::vector<std::uint32_t> back = std::move(back_);
  for (const std::uint32_t jump : back) {
    for (std::uint32_t at = jump, now = alive_[at + 1];; --at) {
      const std::uint16_t was = alive_[at];
      now = visit(at, now);
      if (now == was || at == 0) break;
    }
    back_.clear();  // visit() has added some of them again
  }
}

}  // namespace ramet::jit
