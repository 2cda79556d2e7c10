#include "jit/x86_64/compiler.hpp"

#include <algorithm>
#include <cstring>

namespace ramet::jit::x86 {

using enum Operation;

namespace {

constexpr unsigned kAlways = 16;  // beside conditions
constexpr std::array<std::uint8_t, 4> kSaved = {6, 7, 8, 9};  // registers that functions keep for their callers

unsigned condition_of(Operation o) {
  switch (o) {
    case IfEqual: return kEqual;
    case IfGreater: return kAbove;
    case IfGreaterEqual: return kAboveEqual;
    case IfSignedGreater: return kGreater;
    case IfSignedGreaterEqual: return kGreaterEqual;
    case IfLess: return kBelow;
    case IfLessEqual: return kBelowEqual;
    case IfSignedLess: return kLess;
    case IfSignedLessEqual: return kLessEqual;
    default: return kNotEqual;  // IfNotEqual, IfSet
  }
}

}  // namespace

Compiled Compiler::run() {
  out_.set_ = InstructionSet::X86_64;
  out_.count_ = count_;
  out_.offsets_ = std::make_unique_for_overwrite<std::uint32_t[]>(count_ + 1);
  const std::uint32_t most = estimate();
  out_.code_ = std::make_unique_for_overwrite<std::uint8_t[]>(most + 16);  // put() writes more than it keeps
  at_ = out_.code_.get();
  functions_.reserve(program_.functions().size());
  for (std::size_t f = 0; f < program_.functions().size(); ++f) function(f);
  out_.offsets_[count_] = here();
  stubs();
  out_.size_ = here();
  settle();
  return std::move(out_);
}

void Compiler::function(std::size_t number) {
  now_ = &program_.functions()[number];
  end_ = now_->end;
  epilogue_ = 0;
  functions_.push_back(here());
  prologue(*now_);
  for (std::uint32_t at = now_->first; at < end_;) {
    const std::uint32_t taken = instruction(at);
    for (std::uint32_t n = 1; n < taken; ++n) out_.offsets_[at + n] = out_.offsets_[at];
    at += taken;
  }
}

void Compiler::prologue(const Function& f) {
  unsigned pushed = 0;
  for (const unsigned r : kSaved)
    if (f.written >> r & 1) push(kReg[r]), ++pushed;
  has_frame_ = f.stack != 0 || f.reads_packet;
  padding_ = 0;
  if (has_frame_) {
    push(rbp);
    mov(rbp, rsp, true);
    frame_ = (f.stack + 7u) / 8 * 8 + (f.reads_packet ? 16 : 0);
    if ((16 + 8 * pushed + frame_) % 16 != 0) frame_ += 8;
    immediate(5, rsp, static_cast<std::int32_t>(frame_), true);
    if (f.reads_packet) {
      memory({.bytes = 0x89, .wide = true}, rdi, rbp, -static_cast<std::int32_t>(frame_));
      memory({.bytes = 0x89, .wide = true}, rsi, rbp, 8 - static_cast<std::int32_t>(frame_));
    }
  } else if (f.calls && pushed % 2 == 0) {
    padding_ = 8;
    push(rax);
  }
}

void Compiler::leave() {
  unsigned length = has_frame_ || padding_ ? 2 : 0;
  for (const unsigned r : kSaved)
    if (now_->written >> r & 1) length += kReg[r] >= r8 ? 2 : 1;
  if (epilogue_ != 0 && length > 1) {
    const std::int64_t back = std::int64_t{epilogue_} - here();
    if (fits8(back - 2)) put(0xeb | std::uint64_t(static_cast<std::uint8_t>(back - 2)) << 8, 2);
    else put(0xe9 | std::uint64_t(static_cast<std::uint32_t>(back - 5)) << 8, 5);
    return;
  }
  epilogue_ = here();
  if (has_frame_) put(0xc9, 1);
  else if (padding_) pop(r11);
  for (auto r = kSaved.rbegin(); r != kSaved.rend(); ++r)
    if (now_->written >> *r & 1) pop(kReg[*r]);
  put(0xc3, 1);
}

std::uint32_t Compiler::instruction(std::uint32_t at) {
  if (marks_[at] & mark::kLoop) align();
  if (marks_[at] & mark::kTarget) flags_of_ = kRegisters;
  out_.offsets_[at] = here();
  const Instruction& i = code_[at];
  const Form& f = form(i);
  if (is_arithmetic(f.operation)) {
    const unsigned flags_of = flags_of_;
    flags_of_ = kRegisters;
    if (const std::uint32_t taken = fused(at)) return taken;
    arithmetic(i, f);
    if (f.operation == Mov && f.operand == Operand::Register && i.dst() != flags_of) flags_of_ = flags_of;  // moves leave the flags
    return 1;
  }
  if (is_condition(f.operation)) {
    compare(at, i, f);
    return 1;
  }
  flags_of_ = kRegisters;
  switch (f.operation) {
    case Load: case LoadSigned: load(kReg[i.dst()], {.base = kReg[i.src()], .displacement = i.offset}, f.operation, f.bytes); break;
    case Store: store(i, f.bytes); break;
    case StoreImmediate: store_immediate(i, f.bytes); break;
    case Atomic: atomic_one(i, f.bytes == 8); break;
    case LoadWide: load_wide(at); return 2;
    case PacketAbsolute: case PacketIndirect: packet(i, f); break;
    case Jump: jump(at, i.offset, kAlways); break;
    case JumpLong: jump(at, i.immediate, kAlways); break;
    case Operation::Call: call(at, i); break;
    default: leave(); break;  // Exit; there is no other
  }
  return 1;
}

// A short loop runs up to three times as fast where it does not cross lines of the cache.
void Compiler::align() {
  for (unsigned left = -here() % kLine; left != 0;) {
    const unsigned length = std::min(left, 9u);
    nop(length);
    left -= length;
  }
}

void Compiler::jump(std::uint32_t at, std::int64_t distance, unsigned condition) {
  const auto target = static_cast<std::uint32_t>(at + 1 + distance);
  const unsigned long_length = condition == kAlways ? 5 : 6;
  if (target == at + 1) return;
  const auto write = [&](bool is_short, std::int64_t relative) {
    const auto bits = static_cast<std::uint32_t>(relative);
    if (is_short) put((condition == kAlways ? 0xebu : 0x70u | condition) | std::uint64_t(bits & 0xff) << 8, 2);
    else if (condition == kAlways) put(0xe9 | std::uint64_t{bits} << 8, 5);
    else put(0x0f | (0x80u | condition) << 8 | std::uint64_t{bits} << 16, 6);
  };
  if (target <= at) {
    const std::int64_t back = std::int64_t{out_.offsets_[target]} - here();
    const bool is_short = fits8(back - 2);
    return write(is_short, back - (is_short ? 2 : long_length));
  }
  // What follows is not written yet, so its offsets are what it takes at most.
  const bool is_short = out_.offsets_[target] - out_.offsets_[at + 1] <= 127;
  write(is_short, 0);
  fixups_.push_back({here() - (is_short ? 1 : 4), target, is_short, false});
}

void Compiler::compare(std::uint32_t at, const Instruction& i, const Form& f) {
  const bool wide = f.bytes == 8;
  const unsigned dst = kReg[i.dst()];
  const bool flags_are_there = flags_of_ == i.dst() && flags_wide_ == wide;
  flags_of_ = kRegisters;
  if (i.offset == 0) return;
  if (f.operand == Operand::Register) {
    registers({.bytes = f.operation == IfSet ? 0x85u : 0x39u, .wide = wide}, kReg[i.src()], dst);
  } else if (f.operation == IfSet) {
    if (i.immediate >= 0 && i.immediate < 0x80) {
      one({.bytes = 0xf6, .byte_register = true}, 0, dst);
      put(static_cast<std::uint8_t>(i.immediate), 1);
    } else {
      one({.bytes = 0xf7, .wide = wide && i.immediate < 0}, 0, dst);
      put(static_cast<std::uint32_t>(i.immediate), 4);
    }
  } else if (i.immediate != 0) {
    immediate(7, dst, i.immediate, wide);
  } else if (!flags_are_there || (f.operation != IfEqual && f.operation != IfNotEqual)) {
    registers({.bytes = 0x85, .wide = wide}, dst, dst);
  }
  jump(at, i.offset, condition_of(f.operation));
}

void Compiler::call_function(std::uint32_t target) {
  fixups_.push_back({here() - 4, target, false, true});
}

void Compiler::call(std::uint32_t at, const Instruction& i) {
  if (i.src() == static_cast<unsigned>(Callee::Function)) {
    put(0xe8, 5);
    return call_function(static_cast<std::uint32_t>(at + std::int64_t{1} + i.immediate));
  }
  put(0xe8, 5);
  out_.relocations_.push_back({Relocation::Kind::Helper, static_cast<std::uint32_t>(i.immediate), 0, here() - 4});
}

// A call reaches 2 GiB, and nobody knows yet where helpers will be: for each there is a jump that reaches anything.
void Compiler::stubs() {
  std::vector<std::uint32_t> stub_of;
  for (Relocation& r : out_.relocations_) {
    if (r.kind != Relocation::Kind::Helper) continue;
    if (stub_of.size() <= r.number) stub_of.resize(r.number + 1);
    if (stub_of[r.number] == 0) {
      stub_of[r.number] = here();
      mov_address(rax, 0);  // r0, which a call leaves to the helper
      put(0xe0ff, 2);       // jmp rax
    }
    r.stub = stub_of[r.number];
  }
}

void Compiler::settle() {
  std::uint8_t* code = out_.code_.get();
  for (const Fixup& f : fixups_) {
    std::uint32_t target = out_.offsets_[f.target];
    if (f.function) target = functions_[static_cast<std::size_t>(&program_.function_at(f.target) - program_.functions().data())];
    const std::uint32_t relative = target - (f.at + (f.short_jump ? 1 : 4));
    if (f.short_jump) code[f.at] = static_cast<std::uint8_t>(relative);
    else std::memcpy(code + f.at, &relative, 4);
  }
}

}  // namespace ramet::jit::x86

namespace ramet::jit {

Compiled compile_x86_64(const Checked& program) { return x86::Compiler(program).run(); }

void relocate_x86_64(std::span<std::uint8_t> code, std::uint64_t address, const Relocation& r, std::uint64_t value) {
  if (r.kind != Relocation::Kind::Helper) {
    std::memcpy(code.data() + r.at, &value, sizeof value);
    return;
  }
  std::memcpy(code.data() + r.stub + 2, &value, sizeof value);
  const auto distance = static_cast<std::int64_t>(value - (address + r.at + 4));
  const auto relative = static_cast<std::uint32_t>(x86::fits32(distance) ? distance : std::int64_t{r.stub} - (r.at + 4));
  std::memcpy(code.data() + r.at, &relative, sizeof relative);
}

}  // namespace ramet::jit
