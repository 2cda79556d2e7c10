#include "tests/jit/interpreter.hpp"

#include <array>
#include <cstring>
#include <vector>

namespace ramet::jit::test {
namespace {

using enum Operation;
using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using i32 = std::int32_t;
using i64 = std::int64_t;

u64 read(u64 at, unsigned bytes) {
  u64 value = 0;
  std::memcpy(&value, reinterpret_cast<const void*>(at), bytes);
  return value;
}
void write(u64 at, unsigned bytes, u64 value) { std::memcpy(reinterpret_cast<void*>(at), &value, bytes); }

u64 sign_extend(u64 value, unsigned bits) {
  return static_cast<u64>(static_cast<i64>(value << (64 - bits)) >> (64 - bits));
}
u64 swapped(u64 value, unsigned bits) { return __builtin_bswap64(value) >> (64 - bits); }
u64 lowest(u64 value, unsigned bits) { return bits == 64 ? value : value & ((u64{1} << bits) - 1); }

u64 divided(u64 a, u64 b, bool is_signed, bool wide) {
  if (b == 0) return 0;
  if (!is_signed) return a / b;
  if (b == ~u64{0}) return 0 - a;
  return wide ? static_cast<u64>(static_cast<i64>(a) / static_cast<i64>(b))
              : static_cast<u64>(static_cast<i64>(static_cast<i32>(a) / static_cast<i32>(b)));
}
u64 remainder(u64 a, u64 b, bool is_signed, bool wide) {
  if (b == 0) return a;
  if (!is_signed) return a % b;
  if (b == ~u64{0}) return 0;
  return wide ? static_cast<u64>(static_cast<i64>(a) % static_cast<i64>(b))
              : static_cast<u64>(static_cast<i64>(static_cast<i32>(a) % static_cast<i32>(b)));
}

// `a` and `b` are of the operation's width, zero-extended; sign-extended in sa and sb.
u64 arithmetic(const Instruction& i, const Form& f, u64 a, u64 b) {
  const bool wide = f.bytes == 8;
  const unsigned bits = f.bytes * 8u;
  const u64 sa = sign_extend(a, bits), sb = sign_extend(b, bits);
  switch (f.operation) {
    case Add: return a + b;
    case Sub: return a - b;
    case Mul: return a * b;
    case Div: return i.offset ? divided(sa, sb, true, wide) : divided(a, b, false, wide);
    case Mod: return i.offset ? remainder(sa, sb, true, wide) : remainder(a, b, false, wide);
    case Or: return a | b;
    case And: return a & b;
    case Xor: return a ^ b;
    case Lsh: return a << (b & (bits - 1));
    case Rsh: return a >> (b & (bits - 1));
    case Arsh: return static_cast<u64>(static_cast<i64>(sa) >> (b & (bits - 1)));
    case Neg: return 0 - a;
    case Mov: return i.offset ? sign_extend(b, static_cast<unsigned>(i.offset)) : b;
    case ToLittle: return lowest(a, static_cast<unsigned>(i.immediate));
    case ToBig:
    case Swap: return swapped(a, static_cast<unsigned>(i.immediate));
    default: __builtin_trap();
  }
}

bool holds(Operation o, u64 a, u64 b, unsigned bits) {
  const i64 sa = static_cast<i64>(sign_extend(a, bits)), sb = static_cast<i64>(sign_extend(b, bits));
  switch (o) {
    case IfEqual: return a == b;
    case IfNotEqual: return a != b;
    case IfGreater: return a > b;
    case IfGreaterEqual: return a >= b;
    case IfLess: return a < b;
    case IfLessEqual: return a <= b;
    case IfSet: return (a & b) != 0;
    case IfSignedGreater: return sa > sb;
    case IfSignedGreaterEqual: return sa >= sb;
    case IfSignedLess: return sa < sb;
    case IfSignedLessEqual: return sa <= sb;
    default: __builtin_trap();
  }
}

class Run {
 public:
  Run(const Interpreter& with, const Checked& program, u64 r1, u64 r2)
      : with_(with), code_(program.instructions()), input_(r1), length_(r2) {
    r_[1] = r1, r_[2] = r2;
    r_[10] = top();
  }

  std::optional<u64> run() {
    for (u64 step = 0; step < with_.most_steps; ++step) {
      const Instruction& i = code_[pc_++];
      if (!one(i, form(i))) return std::nullopt;
      if (ended_) return r_[0];
    }
    return std::nullopt;
  }

 private:
  struct Frame {
    std::size_t back;
    std::array<u64, 4> saved;
  };

  u64 top() const { return reinterpret_cast<u64>(stack_.data()) + (kMostFrames - frames_.size()) * kFrameBytes; }
  bool may(u64 at, unsigned bytes) const {
    const u64 low = reinterpret_cast<u64>(stack_.data());
    return !with_.may_access || (at >= low && at + bytes <= low + sizeof stack_) || with_.may_access(at, bytes);
  }

  bool one(const Instruction& i, const Form& f) {
    const unsigned bits = f.bytes * 8u;
    const auto offset = static_cast<u64>(i64{i.offset});
    const u64 operand = f.operand == Operand::Register ? r_[i.src()] : static_cast<u64>(i64{i.immediate});
    if (is_arithmetic(f.operation)) {
      r_[i.dst()] = lowest(arithmetic(i, f, lowest(r_[i.dst()], bits), lowest(operand, bits)), bits);
      return true;
    }
    if (is_condition(f.operation)) {
      if (holds(f.operation, lowest(r_[i.dst()], bits), lowest(operand, bits), bits)) pc_ += offset;
      return true;
    }
    switch (f.operation) {
      case Jump: pc_ += offset; return true;
      case JumpLong: pc_ += static_cast<u64>(i64{i.immediate}); return true;
      case Load:
      case LoadSigned: {
        const u64 at = r_[i.src()] + offset;
        if (!may(at, f.bytes)) return false;
        const u64 value = read(at, f.bytes);
        r_[i.dst()] = f.operation == Load ? value : sign_extend(value, bits);
        return true;
      }
      case Store:
      case StoreImmediate:
        if (!may(r_[i.dst()] + offset, f.bytes)) return false;
        write(r_[i.dst()] + offset, f.bytes, operand);
        return true;
      case Atomic: return atomic_one(i, f.bytes, r_[i.dst()] + offset);
      case LoadWide: return wide(i);
      case PacketAbsolute:
      case PacketIndirect: return packet(i, f);
      case Call: return call(i);
      case Exit: return leave();
      default: return false;
    }
  }

  bool atomic_one(const Instruction& i, unsigned bytes, u64 at) {
    if (!may(at, bytes)) return false;
    const u64 before = read(at, bytes), source = r_[i.src()];
    const unsigned bits = bytes * 8;
    if (i.immediate == atomic::kCompareExchange) {
      if (before == lowest(r_[0], bits)) write(at, bytes, source);
      r_[0] = before;
      return true;
    }
    u64 after = source;
    switch (i.immediate & ~atomic::kFetch) {
      case atomic::kAdd: after = before + source; break;
      case atomic::kOr: after = before | source; break;
      case atomic::kAnd: after = before & source; break;
      case atomic::kXor: after = before ^ source; break;
      default: break;
    }
    write(at, bytes, after);
    if (i.immediate & atomic::kFetch) r_[i.src()] = before;
    return true;
  }

  bool wide(const Instruction& i) {
    const auto first = static_cast<u32>(i.immediate), second = static_cast<u32>(code_[pc_++].immediate);
    const Wide kind = static_cast<Wide>(i.src());
    r_[i.dst()] = kind == Wide::Number ? u64{second} << 32 | first : with_.address(kind, first, second);
    return true;
  }

  bool packet(const Instruction& i, const Form& f) {
    const u32 at = static_cast<u32>(i.immediate) + (f.operation == PacketIndirect ? static_cast<u32>(r_[i.src()]) : 0);
    if (u64{at} + f.bytes > length_) {
      r_[0] = 0;
      ended_ = true;
      return true;
    }
    if (!may(input_ + at, f.bytes)) return false;
    r_[0] = swapped(read(input_ + at, f.bytes), f.bytes * 8u);
    return true;
  }

  bool call(const Instruction& i) {
    if (i.src() == static_cast<unsigned>(Callee::Helper)) {
      r_[0] = with_.helper(static_cast<u32>(i.immediate))(r_[1], r_[2], r_[3], r_[4], r_[5]);
      return true;
    }
    frames_.push_back({pc_, {r_[6], r_[7], r_[8], r_[9]}});
    pc_ += static_cast<u64>(i64{i.immediate});
    r_[10] = top();
    return true;
  }

  bool leave() {
    if (frames_.empty()) return ended_ = true;
    pc_ = frames_.back().back;
    for (unsigned n = 0; n < 4; ++n) r_[6 + n] = frames_.back().saved[n];
    frames_.pop_back();
    r_[10] = top();
    return true;
  }

  const Interpreter& with_;
  const std::vector<Instruction>& code_;
  const u64 input_, length_;
  std::array<u64, kRegisters> r_{};
  std::size_t pc_ = 0;
  bool ended_ = false;
  std::vector<Frame> frames_;
  alignas(16) std::array<u8, kMostFrames * kFrameBytes> stack_{};
};

}  // namespace

std::optional<u64> Interpreter::run(const Checked& program, u64 r1, u64 r2) const {
  return Run(*this, program, r1, r2).run();
}

}  // namespace ramet::jit::test
