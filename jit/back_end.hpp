// What the compilers for all instruction sets are: two passes over the instructions. The first adds up how much each can
// take at most, the second writes them. A jump backward knows how far it goes; one forward goes at most as far as the first
// pass said, so nothing that has been written ever moves.
//
// A back end is a class Back : BackEnd<Back, Encoder>. Its Encoder writes single instructions at `at_`, and has
//     enum class Distance                               the ways in which instructions hold the distance of a jump
//     static void set_distance(code, Distance, bytes)   writes one into the instruction at `code`, seen from there
// Back writes what the virtual machine's instructions become: estimate(), prologue(), leave(), fused(), arithmetic(),
// branch(), load(), store(), atomic_one(), load_wide(), packet(), jump(), call_helper(), call_function(), all as called below.
#pragma once

#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "jit/compiler.hpp"
#include "jit/idioms.hpp"

namespace ramet::jit {

template <class Back, class Encoder>
class BackEnd : protected Encoder {
 public:
  explicit BackEnd(const Checked& program)
      : program_(program), code_(program.instructions().data()), marks_(program.marks()),
        count_(static_cast<std::uint32_t>(program.instructions().size())) {}

  Compiled run() {
    out_.set_ = Back::kSet;
    out_.count_ = count_;
    out_.offsets_ = std::make_unique_for_overwrite<std::uint32_t[]>(count_ + 1);
    out_.code_ = std::make_unique_for_overwrite<std::uint8_t[]>(back().estimate());
    this->at_ = out_.code_.get();
    functions_.reserve(program_.functions().size());
    for (const Function& f : program_.functions()) function(f);
    out_.offsets_[count_] = here();
    back().end();
    out_.size_ = here();
    settle();
    return std::move(out_);
  }

 protected:
  using Distance = typename Encoder::Distance;

  // Hooks that not every back end has: before an instruction, and after the last one.
  void begin(std::uint32_t) {}
  void end() {}

  std::uint32_t here() const { return static_cast<std::uint32_t>(this->at_ - out_.code_.get()); }
  std::uint32_t offset_of(std::uint32_t at) const { return out_.offsets_[at]; }  // of what is not written yet, at most

  // The instruction at `at` holds a distance that is not known yet: to an instruction, or to where a function begins.
  void to_instruction(Distance distance, std::uint32_t at, std::uint32_t target) { fixups_.push_back({distance, false, at, target}); }
  void to_function(Distance distance, std::uint32_t at, std::uint32_t first) { fixups_.push_back({distance, true, at, first}); }

  std::vector<Relocation>& relocations() { return out_.relocations_; }

  // The first pass, with a back end's figures: what stands before an instruction by its mark, itself, and what each call
  // takes elsewhere.
  template <class Before, class Most>
  std::uint32_t add_up(const Before& before, const Most& most, std::uint32_t each_call) {
    std::uint32_t sum = 0, calls = 0;
    std::uint32_t* offsets = out_.offsets_.get();
    for (std::uint32_t at = 0; at < count_; ++at) {
      if (marks_[at] != 0) sum += before(marks_[at]);
      offsets[at] = sum;
      sum += most(code_[at]);
      calls += code_[at].opcode == opcode::kCall;
    }
    offsets[count_] = sum;
    return sum + calls * each_call;
  }

  const Checked& program_;
  const Instruction* code_;
  const std::uint8_t* marks_;

  // Of the function that is being written.
  const Function* now_ = nullptr;
  std::uint32_t epilogue_ = 0;  // where one is, if any

 private:
  struct Fixup {
    Distance distance;
    bool function;
    std::uint32_t at, target;
  };

  Back& back() { return static_cast<Back&>(*this); }

  void function(const Function& f) {
    now_ = &f;
    epilogue_ = 0;
    functions_.push_back(here());
    back().prologue();
    for (std::uint32_t at = f.first; at < f.end;) {
      const std::uint32_t taken = instruction(at);
      for (std::uint32_t n = 1; n < taken; ++n) out_.offsets_[at + n] = out_.offsets_[at];
      at += taken;
    }
  }

  // How many instructions were taken.
  std::uint32_t instruction(std::uint32_t at) {
    using enum Operation;
    back().begin(at);
    out_.offsets_[at] = here();
    const Instruction& i = code_[at];
    const Form& f = form(i);
    if (is_arithmetic(f.operation)) {
      if (const std::uint32_t taken = back().fused(at)) return taken;
      back().arithmetic(i, f);
      return 1;
    }
    if (is_condition(f.operation)) {
      if (i.offset != 0) back().branch(at, i, f);
      return 1;
    }
    switch (f.operation) {
      case Load: case LoadSigned: back().load(i, f); break;
      case Store: case StoreImmediate: back().store(i, f); break;
      case Atomic: back().atomic_one(i, f.bytes == 8); break;
      case LoadWide: back().load_wide(at); return 2;
      case PacketAbsolute: case PacketIndirect: back().packet(i, f); break;
      case Jump: jump(at, i.offset); break;
      case JumpLong: jump(at, i.immediate); break;
      case Operation::Call: call(at, i); break;
      default: back().leave(); break;  // Exit; there is no other
    }
    return 1;
  }

  void jump(std::uint32_t at, std::int64_t distance) {
    if (distance != 0) back().jump(at, static_cast<std::uint32_t>(at + 1 + distance));
  }

  void call(std::uint32_t at, const Instruction& i) {
    if (i.src() == static_cast<unsigned>(Callee::Function)) back().call_function(static_cast<std::uint32_t>(at + std::int64_t{1} + i.immediate));
    else back().call_helper(static_cast<std::uint32_t>(i.immediate));
  }

  void settle() {
    const Function* first = program_.functions().data();
    for (const Fixup& f : fixups_) {
      const std::uint32_t target = f.function ? functions_[static_cast<std::size_t>(&program_.function_at(f.target) - first)] : out_.offsets_[f.target];
      Encoder::set_distance(out_.code_.get() + f.at, f.distance, std::int64_t{target} - f.at);
    }
  }

  const std::uint32_t count_;
  Compiled out_;
  std::vector<Fixup> fixups_;
  std::vector<std::uint32_t> functions_;  // where they begin, as far as they are written
};

}  // namespace ramet::jit
