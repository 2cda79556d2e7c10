// The frame of the compilers for all instruction sets: two passes over the instructions. The first adds up how many
// bytes each can take at most, the second writes them. The displacement of a backward jump is known; that of a forward
// jump is at most what the first pass said, so code that has been written never moves.
//
// A back end is a class Back : BackEnd<Back, Encoder>. Its Encoder writes single instructions at `at_`, and has
//     enum class Displacement                                   how an instruction encodes a branch displacement
//     static void set_displacement(code, Displacement, bytes)   encodes the displacement, counted from `code`, there
// Back writes the machine code of eBPF's instructions: estimate(), prologue(), leave(), fused(), arithmetic(),
// branch(), branch_to_exit(), move_unless(), load(), store(), atomic_one(), load_wide(), packet(), jump(),
// jump_to_exit(), call_helper(), call_function(), all as called below; fused() and load() return how many eBPF
// instructions they have translated.
#pragma once

#include <algorithm>
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
        count_(static_cast<std::uint32_t>(program.instructions().size())), alive_(program), idioms_(program, alive_) {}

  Compiled run() {
    out_.set_ = Back::kSet;
    out_.count_ = count_;
    out_.offsets_ = std::make_unique_for_overwrite<std::uint32_t[]>(count_ + 1);
    out_.code_ = std::make_unique_for_overwrite<std::uint8_t[]>(back().estimate());
    this->at_ = out_.code_.get();
    functions_.reserve(program_.functions().size());
    fixups_.reserve(count_ / 16);
    for (const Function& f : program_.functions()) function(f);
    out_.offsets_[count_] = here();
    back().end();
    out_.size_ = here();
    set_displacements();
    return std::move(out_);
  }

 protected:
  using Displacement = typename Encoder::Displacement;

  // Hooks that not every back end has: before an instruction, and after the last one.
  void begin(std::uint32_t) {}
  void end() {}

  std::uint32_t here() const { return static_cast<std::uint32_t>(this->at_ - out_.code_.get()); }
  // Where an instruction's code begins; where that is not written yet, the first pass's figure.
  std::uint32_t offset_of(std::uint32_t at) const { return out_.offsets_[at]; }

  // Records a fixup for the branch displacement at `at`: its target is an instruction, a function's entry, or this
  // function's exit, less than kFar bytes away.
  void to_instruction(Displacement displacement, std::uint32_t at, std::uint32_t target) {
    fixups_.push_back({displacement, false, at, target});
  }
  void to_function(Displacement displacement, std::uint32_t at, std::uint32_t first) {
    fixups_.push_back({displacement, true, at, first});
  }
  void to_exit(Displacement displacement, std::uint32_t at) { exits_.push_back({displacement, at}); }

  std::vector<Relocation>& relocations() { return out_.relocations_; }

  // The first pass, from the last instruction to the first. A back end gives the most bytes before an instruction by
  // its marks (`before`), of the instruction itself (`most`), and of each call at the end (`each_call`). Returns the
  // sum.
  template <class Before, class Most>
  std::uint32_t add_up(const Before& before, const Most& most, std::uint32_t each_call) {
    std::uint32_t* const offsets = out_.offsets_.get();
    const Instruction* const code = code_;
    const std::uint8_t* const marks = marks_;
    std::uint32_t offset = kEnd;
    offsets[count_] = offset;
    for (std::uint32_t at = count_, alive = 0; at-- > 0;) {
      alive = alive_.visit(at, alive);
      offset -= most(code[at]);
      if (marks[at] != 0) offset -= before(marks[at]);
      offsets[at] = offset;
    }
    alive_.converge();
    const bool calls = std::ranges::any_of(program_.functions(), &Function::calls);
    return kEnd - offset +
           (calls ? each_call * static_cast<std::uint32_t>(
                                    std::count_if(code_, code_ + count_,
                                                  [](const Instruction& i) { return i.opcode == opcode::kCall; }))
                  : 0);
  }

  const Checked& program_;
  const Instruction* code_;
  const std::uint8_t* marks_;
  const std::uint32_t count_;
  Liveness alive_;
  const Idioms idioms_;

  // Of the function that is being written.
  const Function* now_ = nullptr;
  std::uint32_t epilogue_ = 0;  // offset of its last epilogue, 0: none yet

 private:
  static constexpr std::uint32_t kEnd = 1u << 31;  // the first pass's offset of the end

  struct Fixup {
    Displacement displacement;
    bool function;
    std::uint32_t at, target;
  };

  struct ToExit {
    Displacement displacement;
    std::uint32_t at;
  };
  static constexpr std::uint32_t kFar = 1u << 19;

  Back& back() { return static_cast<Back&>(*this); }

  void function(const Function& f) {
    now_ = &f;
    epilogue_ = 0;
    exits_.clear();
    exits_move_ = offset_of(f.end) - offset_of(f.first) < kFar;
    functions_.push_back(here());
    back().prologue();
    for (std::uint32_t at = f.first; at < f.end;) {
      const std::uint32_t taken = instruction(at);
      for (std::uint32_t n = 1; n < taken; ++n) out_.offsets_[at + n] = out_.offsets_[at];
      at += taken;
    }
    if (exits_.empty()) return;
    const std::uint32_t exit = here();
    back().leave();
    for (const ToExit& e : exits_)
      Encoder::set_displacement(out_.code_.get() + e.at, e.displacement, std::int64_t{exit} - e.at);
  }

  // Whether the exit moves to the function's end: a branch skips it, as in a loop, which then falls through.
  bool exit_moves(std::uint32_t at) const {
    return code_[at].opcode == opcode::kExit && exits_move_ && at > now_->first && code_[at - 1].offset == 1 &&
           is_condition(form(code_[at - 1]).operation);
  }

  // Writes the code of the instruction at `at`, perhaps with those after it; returns how many. Inline: that saves a
  // twentieth of the compiler's time.
  [[gnu::always_inline]] std::uint32_t instruction(std::uint32_t at) {
    using enum Operation;
    back().begin(at);
    out_.offsets_[at] = here();
    const Instruction& i = code_[at];
    const Form& f = form(i);
    if (is_arithmetic(f.operation)) {
      if (alive_.dead_after(at, i.dst())) return 1;
      if (Idioms::may_begin(i))
        if (const std::uint32_t taken = back().fused(at)) return taken;
      back().arithmetic(i, f);
      return 1;
    }
    if (is_condition(f.operation)) return branch(at, i, f);
    switch (f.operation) {
      case Load:
      case LoadSigned:  // a load from the function's own stack whose result is dead is left out
        if (i.src() == kFramePointer && alive_.dead_after(at, i.dst())) return 1;
        return back().load(at, i, f);
      case Store:
      case StoreImmediate: back().store(i, f); break;
      case Atomic: back().atomic_one(i, f.bytes == 8); break;
      case LoadWide: back().load_wide(at); return 2;
      case PacketAbsolute:
      case PacketIndirect: back().packet(i, f); break;
      case Jump: jump(at, static_cast<std::uint32_t>(at + 1 + i.offset)); break;
      case JumpLong: jump(at, static_cast<std::uint32_t>(at + std::int64_t{1} + i.immediate)); break;
      case Operation::Call: call(at, i); break;
      default: back().leave(); break;  // Exit; there is no other
    }
    return 1;
  }

  // A condition that jumps around a single move becomes a conditional move; one that jumps around a jump, the opposite
  // condition with that jump's target.
  std::uint32_t branch(std::uint32_t at, const Instruction& i, const Form& f) {
    const auto target = static_cast<std::uint32_t>(at + 1 + i.offset);
    if (target == at + 1) return 1;
    if (target == at + 2 && exit_moves(at + 1)) {
      back().branch_to_exit(i, f, true);
      return 2;
    }
    if (const Instruction* move = idioms_.only_move(at)) {
      back().move_unless(i, f, *move);
      return 2;
    }
    if (code_[at + 1].opcode == opcode::kJump && idioms_.follows(at + 1)) {
      const auto other = static_cast<std::uint32_t>(at + 2 + code_[at + 1].offset);
      if (target == at + 2) {
        branch(at + 1, other, i, f, true);
        return 2;
      }
      if (idioms_.is_only_move(other, target)) {
        back().move_unless(i, f, code_[other]);
        jump(at + 1, target);
        return 2;
      }
    }
    branch(at, target, i, f, false);
    return 1;
  }

  void branch(std::uint32_t at, std::uint32_t target, const Instruction& i, const Form& f, bool turned) {
    if (exit_moves(target)) back().branch_to_exit(i, f, turned);
    else back().branch(at, target, i, f, turned);
  }

  void jump(std::uint32_t at, std::uint32_t target) {
    if (target == at + 1) return;
    if (exit_moves(target)) back().jump_to_exit();
    else back().jump(at, target);
  }

  void call(std::uint32_t at, const Instruction& i) {
    if (i.src() == static_cast<unsigned>(Callee::Function))
      back().call_function(static_cast<std::uint32_t>(at + std::int64_t{1} + i.immediate));
    else back().call_helper(static_cast<std::uint32_t>(i.immediate));
  }

  void set_displacements() {
    const Function* first = program_.functions().data();
    for (const Fixup& f : fixups_) {
      const std::uint32_t target = f.function
                                       ? functions_[static_cast<std::size_t>(&program_.function_at(f.target) - first)]
                                       : out_.offsets_[f.target];
      Encoder::set_displacement(out_.code_.get() + f.at, f.displacement, std::int64_t{target} - f.at);
    }
  }

  Compiled out_;
  std::vector<Fixup> fixups_;
  std::vector<ToExit> exits_;  // of the function that is being written
  bool exits_move_ = false;  // whether exit_moves() may be true in that function
  std::vector<std::uint32_t> functions_;  // where they begin, as far as they are written
};

}  // namespace ramet::jit
