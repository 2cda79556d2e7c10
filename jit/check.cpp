#include "jit/check.hpp"

#include <algorithm>
#include <bit>
#include <optional>

namespace ramet::jit {

using enum Operation;

namespace {

// Whether no value of an instruction's fields can be wrong, besides those that the table says are reserved.
constexpr bool is_plain(Operation o) {
  return o == Add || o == Sub || o == Mul || o == Or || o == And || o == Xor || o == Load || o == LoadSigned ||
         o == Store || o == StoreImmediate;
}

}  // namespace

const Function& Checked::function_at(std::uint32_t first) const {
  return *std::ranges::lower_bound(functions_, first, {}, &Function::first);
}

// Three passes, each from the first instruction to the last: fields and jump targets; functions and what they contain;
// how calls nest. The first failure is kept and ends the check.
class Checker {
 public:
  Checker(const Program& program, const Known& known)
      : code_(program.instructions), known_(known), maps_(program.maps),
        count_(static_cast<std::uint32_t>(code_.size())) {}

  std::expected<Checked, Refusal> run() {
    if (code_.empty()) return std::unexpected(Refusal{0, "the program is empty"});
    if (code_.size() > kMostInstructions)
      return std::unexpected(Refusal{0, "the program has more than 1048576 instructions"});
    checked_.instructions_ = &code_;
    checked_.marks_ = std::make_unique<std::uint8_t[]>(count_);
    marks_ = checked_.marks_.get();
    marks_[0] = mark::kFunction;
    if (!(fields() && functions() && nesting())) return std::unexpected(*std::move(refusal_));
    return std::move(checked_);
  }

 private:
  struct Call {
    std::uint32_t at, to;  // instructions
  };

  bool refuse(std::uint32_t at, std::string reason) {
    refusal_ = Refusal{at, std::move(reason)};
    return false;
  }

  bool fields();
  bool reserved(std::uint32_t at, const Instruction& i, const Form& f);
  bool fields_of(std::uint32_t& at, const Instruction& i, const Form& f);
  bool arithmetic(std::uint32_t at, const Instruction& i, const Form& f);
  bool wide(std::uint32_t at, const Instruction& i);
  bool call(std::uint32_t at, const Instruction& i);
  bool jump(std::uint32_t at, std::int64_t distance);
  bool leads_to(std::uint32_t at, std::int64_t target, const char* what);
  bool leads_out(std::uint32_t at, std::int64_t target, const char* what);
  bool functions();
  bool scan(Function& function);
  bool contents(Function& function, std::uint32_t at, const Instruction& i, const Form& f);
  bool stack(Function& function, std::uint32_t at, const Instruction& i, const Form& f);
  bool nesting();

  const std::vector<Instruction>& code_;
  const Known& known_;
  const std::uint32_t maps_, count_;
  Checked checked_;
  std::uint8_t* marks_ = nullptr;
  std::vector<Call> calls_;                // between functions, by where they are
  std::vector<std::uint32_t> by_address_;  // first instructions of functions whose address is taken
  std::optional<Refusal> refusal_;
};

inline bool Checker::leads_to(std::uint32_t at, std::int64_t target, const char* what) {
  if (static_cast<std::uint64_t>(target) < count_) return true;
  return leads_out(at, target, what);
}

bool Checker::leads_out(std::uint32_t at, std::int64_t target, const char* what) {
  return refuse(at, std::string(what) + " leads out of the program, to " + std::to_string(target));
}

inline bool Checker::jump(std::uint32_t at, std::int64_t distance) {
  const std::int64_t target = at + std::int64_t{1} + distance;
  if (!leads_to(at, target, "a jump")) return false;
  marks_[target] |= distance < 0 ? mark::kTarget | mark::kLoop : mark::kTarget;
  return true;
}

bool Checker::fields() {
  for (std::uint32_t at = 0; at < count_; ++at) {
    const Instruction& i = code_[at];
    const Form& f = form(i);
    if (f.operation == None) return refuse(at, "unknown opcode " + std::to_string(i.opcode));
    if (i.dst() >= kRegisters || i.src() >= kRegisters) return refuse(at, "there are registers r0 to r10 only");
    if (std::bit_cast<std::uint64_t>(i) & kReserved[i.opcode]) return reserved(at, i, f);
    if (f.writes_dst && i.dst() == kFramePointer) return refuse(at, "r10 cannot be written");
    if (is_plain(f.operation) || (f.operation == Mov && i.offset == 0)) continue;
    if (is_condition(f.operation) ? !jump(at, i.offset) : !fields_of(at, i, f)) return false;
  }
  return true;
}

bool Checker::reserved(std::uint32_t at, const Instruction& i, const Form& f) {
  const char* field = f.zero_dst && i.dst()       ? "destination"
                      : f.zero_src && i.src()     ? "source"
                      : f.zero_offset && i.offset ? "offset"
                                                  : "immediate";
  return refuse(at, std::string("a reserved field is not zero: ") + field);
}

bool Checker::fields_of(std::uint32_t& at, const Instruction& i, const Form& f) {
  if (is_arithmetic(f.operation)) return arithmetic(at, i, f);
  switch (f.operation) {
    case Jump: return jump(at, i.offset);
    case JumpLong: return jump(at, i.immediate);
    case Operation::Call: return call(at, i);
    case LoadWide: return wide(at++, i);
    case Atomic:
      if (!atomic::exists(i.immediate)) return refuse(at, "unknown atomic operation " + std::to_string(i.immediate));
      if (atomic::fetches_into_source(i.immediate) && i.src() == kFramePointer)
        return refuse(at, "r10 cannot be written");
      return true;
    default: return true;
  }
}

bool Checker::arithmetic(std::uint32_t at, const Instruction& i, const Form& f) {
  switch (f.operation) {
    case Lsh:
    case Rsh:
    case Arsh:
      if (const std::int32_t most = f.bytes * 8 - 1;
          f.operand == Operand::Immediate && (i.immediate & most) != i.immediate) {
        if (!checked_.changed_) checked_.changed_ = std::make_unique<std::vector<Instruction>>(code_);
        (*checked_.changed_)[at].immediate &= most;
        checked_.instructions_ = checked_.changed_.get();
      }
      return true;
    case Div:
    case Mod:  // signed with an offset of 1
      if (i.offset == 0 || i.offset == 1) return true;
      break;
    case Mov:  // sign-extending with the number of bits as offset
      if (i.offset == 0) return true;
      if (f.operand == Operand::Register && (i.offset == 8 || i.offset == 16 || (i.offset == 32 && f.bytes == 8)))
        return true;
      break;
    case ToLittle:
    case ToBig:
    case Swap:
      if (i.immediate == 16 || i.immediate == 32 || i.immediate == 64) return true;
      return refuse(at, "swaps 16, 32 or 64 bits, not " + std::to_string(i.immediate));
    default: return true;
  }
  return refuse(at, "unknown variant " + std::to_string(i.offset) + " of the operation (offset)");
}

bool Checker::wide(std::uint32_t at, const Instruction& i) {
  if (at + 1 == count_) return refuse(at, "the second half of a wide load is missing");
  const Instruction& second = code_[at + 1];
  if (second.opcode != 0 || second.registers != 0 || second.offset != 0)
    return refuse(at + 1, "the second half of a wide load has something besides its immediate");
  marks_[at + 1] |= mark::kSecondSlot;
  if (i.src() >= kWides) return refuse(at, "unknown kind " + std::to_string(i.src()) + " of wide load");
  const auto number = static_cast<std::uint32_t>(i.immediate);
  switch (static_cast<Wide>(i.src())) {
    case Wide::Number: return true;
    case Wide::MapValue:
    case Wide::MapValueByIndex:
      if (number >= maps_) return refuse(at, "there is no map " + std::to_string(number));
      return true;
    case Wide::Map:
    case Wide::MapByIndex:
      if (number >= maps_) return refuse(at, "there is no map " + std::to_string(number));
      break;
    case Wide::Variable:
      if (number >= known_.variables.size() || !known_.variables[number])
        return refuse(at, "there is no variable " + std::to_string(number));
      break;
    case Wide::Function:
      if (!leads_to(at, at + std::int64_t{1} + i.immediate, "a function's address")) return false;
      marks_[at + 1 + i.immediate] |= mark::kFunction;
      calls_.push_back({at, static_cast<std::uint32_t>(at + 1 + i.immediate)});
      by_address_.push_back(calls_.back().to);
      break;
  }
  if (second.immediate != 0) return refuse(at + 1, "a reserved field is not zero: immediate");
  return true;
}

bool Checker::call(std::uint32_t at, const Instruction& i) {
  if (i.src() == static_cast<unsigned>(Callee::Helper)) {
    const auto number = static_cast<std::uint32_t>(i.immediate);
    if (number < known_.helpers.size() && known_.helpers[number]) return true;
    return refuse(at, "unknown helper " + std::to_string(number));
  }
  if (i.src() != static_cast<unsigned>(Callee::Function))
    return refuse(at, "unknown kind " + std::to_string(i.src()) + " of call");
  const std::int64_t target = at + std::int64_t{1} + i.immediate;
  if (!leads_to(at, target, "a call")) return false;
  marks_[target] |= mark::kFunction;
  calls_.push_back({at, static_cast<std::uint32_t>(target)});
  return true;
}

bool Checker::functions() {
  for (std::uint32_t at = 0; at < (calls_.empty() ? 1 : count_); ++at)
    if (marks_[at] & mark::kFunction) {
      if (!checked_.functions_.empty()) checked_.functions_.back().end = at;
      checked_.functions_.push_back({.first = at, .end = count_});
    }
  for (Function& f : checked_.functions_)
    if (!scan(f)) return false;
  for (const std::uint32_t first : by_address_) const_cast<Function&>(checked_.function_at(first)).by_address = true;
  return true;
}

bool Checker::scan(Function& function) {
  std::uint32_t last = function.first;
  unsigned written = 0;
  for (std::uint32_t at = function.first; at < function.end; ++at) {
    const Instruction& i = code_[at];
    const Form& f = form(i);
    last = at;
    written |= unsigned{f.writes_dst} << i.dst();
    if (is_arithmetic(f.operation)) {
      if (f.operand == Operand::Register && i.src() == kFramePointer) function.stack = kFrameBytes;
      continue;
    }
    if ((i.src() == kFramePointer || i.dst() == kFramePointer) && !stack(function, at, i, f)) return false;
    if (f.operation >= Load && f.operation <= StoreImmediate) continue;
    if (!contents(function, at, i, f)) return false;
    if (f.operation == LoadWide) ++at;
  }
  function.written = static_cast<std::uint16_t>(function.written | written);
  const Operation end = form(code_[last]).operation;
  if (end != Exit && end != Jump && end != JumpLong) return refuse(last, "execution falls off the end of the function");
  return true;
}

// Checks that need to know where functions and wide loads are.
bool Checker::contents(Function& function, std::uint32_t at, const Instruction& i, const Form& f) {
  std::int64_t target = at;
  const bool jumps = is_condition(f.operation) || f.operation == Jump || f.operation == JumpLong;
  if (jumps) target += 1 + (f.operation == JumpLong ? i.immediate : i.offset);
  else if (f.operation == Operation::Call) {
    function.calls = true;
    if (i.src() == static_cast<unsigned>(Callee::Function)) target += 1 + i.immediate;
  } else if (f.operation == LoadWide) {
    if (i.src() == static_cast<unsigned>(Wide::Function)) target += 1 + i.immediate;
  } else if (f.operation == Atomic) {
    if (atomic::fetches_into_source(i.immediate))
      function.written = static_cast<std::uint16_t>(function.written | 1u << i.src());
  } else if (f.operation == PacketAbsolute || f.operation == PacketIndirect) {
    function.reads_packet = true;
    if (function.first != 0) return refuse(at, "a legacy packet load outside the program's first function");
  }
  if (marks_[target] & mark::kSecondSlot)
    return refuse(at, "leads into the middle of the wide load at " + std::to_string(target - 1));
  if (jumps && (target < function.first || target >= function.end))
    return refuse(at, "a jump leads into another function, to " + std::to_string(target));
  return true;
}

// How much of the frame a function needs: as far down as loads and stores by r10 reach, or all of it if r10 is used in
// any other way.
bool Checker::stack(Function& function, std::uint32_t at, const Instruction& i, const Form& f) {
  const bool loads = f.operation == Load || f.operation == LoadSigned;
  const bool stores = f.operation == Store || f.operation == StoreImmediate || f.operation == Atomic;
  const bool base = (loads && i.src() == kFramePointer) || (stores && i.dst() == kFramePointer);
  if (base) {
    if (i.offset < -int(kFrameBytes) || i.offset + f.bytes > 0)
      return refuse(at, "r10" + std::string(i.offset < 0 ? "" : "+") + std::to_string(i.offset) +
                            " is outside the function's 512 bytes of stack");
    checked_.frame_accesses_.push_back(at);
    function.stack = std::max<std::uint16_t>(function.stack, static_cast<std::uint16_t>(-i.offset));
  }
  const bool other = f.operand == Operand::Register && !loads && i.src() == kFramePointer;
  const bool compared = is_condition(f.operation) && i.dst() == kFramePointer;
  if (other || compared) function.stack = kFrameBytes;
  return true;
}

// Visits functions so that callers come before those they call; functions that are left over are recursive.
bool Checker::nesting() {
  const auto& functions = checked_.functions_;
  if (functions.size() == 1 && calls_.empty()) return true;
  const auto index = [&](std::uint32_t first) {
    return static_cast<std::size_t>(&checked_.function_at(first) - functions.data());
  };
  std::vector<std::uint32_t> callers(functions.size()), begin(functions.size() + 1), depth(functions.size(), 1);
  std::ranges::sort(calls_, {}, &Call::at);
  std::size_t next = 0;
  for (std::size_t f = 0; f < functions.size(); ++f) {
    begin[f] = static_cast<std::uint32_t>(next);
    for (; next < calls_.size() && calls_[next].at < functions[f].end; ++next) ++callers[index(calls_[next].to)];
  }
  begin[functions.size()] = static_cast<std::uint32_t>(next);
  std::vector<std::size_t> ready;
  for (std::size_t f = 0; f < functions.size(); ++f)
    if (callers[f] == 0) ready.push_back(f);
  while (!ready.empty()) {
    const std::size_t caller = ready.back();
    ready.pop_back();
    for (std::uint32_t c = begin[caller]; c < begin[caller + 1]; ++c) {
      const std::size_t callee = index(calls_[c].to);
      depth[callee] = std::max(depth[callee], depth[caller] + 1);
      if (depth[callee] > kMostFrames) return refuse(calls_[c].at, "calls nest more than 8 deep");
      if (--callers[callee] == 0) ready.push_back(callee);
    }
  }
  const auto caller_of = [&](std::uint32_t at) {
    return static_cast<std::size_t>(std::ranges::upper_bound(functions, at, {}, &Function::first) - functions.begin()) -
           1;
  };
  for (const Call& c : calls_)
    if (callers[index(c.to)] != 0 && callers[caller_of(c.at)] != 0)
      return refuse(c.at, "functions call each other in a circle");
  return true;
}

std::expected<Checked, Refusal> check(const Program& program, const Known& known) {
  return Checker(program, known).run();
}

}  // namespace ramet::jit
