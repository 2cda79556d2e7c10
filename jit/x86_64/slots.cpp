#include "jit/x86_64/slots.hpp"

#include <algorithm>

#include "jit/x86_64/encoder.hpp"

namespace ramet::jit::x86 {

using enum Operation;

namespace {

constexpr unsigned kWorthwhile = 3;     // uses of a word that pay for saving a register
constexpr unsigned kLongest = 1 << 14;  // instructions; in longer functions few words are used all the time
// r12 is callee-saved; the others are lost in calls, and are scratch registers of some operations (kScratched).
constexpr std::array<std::uint8_t, 3> kFree = {r12, r9, r10};

enum class Use : std::uint8_t { None, Half, Whole, SecondHalf, Mixed };

struct Cell {
  Use use = Use::None;
  std::uint16_t count = 0;
};

void note(Cell& cell, Use use) { cell.use = cell.use == Use::None || cell.use == use ? use : Use::Mixed; }

std::array<bool, 256> scratched() {
  std::array<bool, 256> t{};
  for (unsigned n = 0; n < 256; ++n) {
    const Operation o = kForms[n].operation;
    t[n] = o == Div || o == Mod || o == Atomic || o == PacketAbsolute || o == PacketIndirect;
  }
  return t;
}

const std::array<bool, 256> kScratched = scratched();

bool only_r12(const Checked& program, const Function& f) {
  const Instruction* const code = program.instructions().data();
  return f.calls ||
         std::any_of(code + f.first, code + f.end, [](const Instruction& i) { return kScratched[i.opcode]; });
}

}  // namespace

void Slots::choose(const Checked& program, const Function& f) {
  any_ = false;
  if (f.stack == 0 || f.stack == kFrameBytes) return;  // kFrameBytes: the frame's address may be taken
  if (f.end - f.first > kLongest) return;
  std::array<Cell, kCells> cells{};
  const auto& accesses = program.frame_accesses();
  const Instruction* const code = program.instructions().data();
  for (auto at = std::ranges::lower_bound(accesses, f.first); at != accesses.end() && *at < f.end; ++at) {
    const Instruction& i = code[*at];
    const Form& form = kForms[i.opcode];
    const bool whole = (form.operation == Load || form.operation == Store || form.operation == StoreImmediate) &&
                       form.bytes >= 4 && i.offset % 4 == 0;
    const unsigned first = cell(i.offset), last = cell(i.offset + form.bytes - 1);
    note(cells[first], !whole ? Use::Mixed : form.bytes == 4 ? Use::Half : Use::Whole);
    for (unsigned n = first + 1; n <= last; ++n) note(cells[n], whole ? Use::SecondHalf : Use::Mixed);
    ++cells[first].count;
  }
  std::size_t most = 1;
  for (std::size_t n = 0; n < most; ++n) {
    Cell* best = nullptr;
    for (unsigned c = cell(-int{f.stack}); c < kCells; ++c) {
      const bool fits = cells[c].use == Use::Half ||
                        (cells[c].use == Use::Whole && c + 1 < kCells && cells[c + 1].use == Use::SecondHalf);
      if (fits && cells[c].count >= kWorthwhile && (!best || cells[c].count > best->count)) best = &cells[c];
    }
    if (!best) return;
    if (!any_) {
      registers_.fill(kNone);
      any_ = true;
      most = only_r12(program, f) ? 1 : kFree.size();
    }
    registers_[static_cast<std::size_t>(best - cells.data())] = kFree[n];
    best->use = Use::None;
  }
}

}  // namespace ramet::jit::x86
