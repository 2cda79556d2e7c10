#include "vmm/soft/dynarmic/saturating.hpp"

#include <bit>
#include <cstring>

#include "vmm/soft/dynarmic/callbacks.hpp"
#include "vmm/soft/dynarmic/form.hpp"

namespace ramet::vmm::soft {
namespace {

__extension__ using Wide = __int128;  // holds every result before it saturates

// Elements of 8 << size bits.
struct Elements {
  Vector v{};
  Wide get(unsigned n, unsigned size, bool is_signed) const {
    const unsigned bits = 8u << size, at = n * bits;
    const std::uint64_t raw = v[at / 64] >> (at % 64) << (64 - bits);
    return is_signed ? Wide{static_cast<std::int64_t>(raw) >> (64 - bits)} : Wide{raw >> (64 - bits)};
  }
  void set(unsigned n, unsigned size, Wide value) {
    const unsigned bits = 8u << size, at = n * bits;
    const std::uint64_t mask = bits == 64 ? ~0ull : (1ull << bits) - 1;
    v[at / 64] = (v[at / 64] & ~(mask << (at % 64))) | (static_cast<std::uint64_t>(value) & mask) << (at % 64);
  }
};

// One instruction's arithmetic: whether anything saturated becomes FPSR.QC at its end.
class Operation {
 public:
  Operation(Callbacks& c, std::uint32_t word) : c_(c), word_(word) {}

  bool scalar() const { return field(word_, 28, 1); }
  unsigned size() const { return field(word_, 22, 2); }
  Elements source(unsigned at) const { return {c_.jit->GetVector(field(word_, at, 5))}; }

  Wide saturate(Wide value, unsigned bits, bool is_signed) {
    const Wide most = (Wide{1} << (is_signed ? bits - 1 : bits)) - 1, least = is_signed ? -most - 1 : 0;
    if (value >= least && value <= most) return value;
    saturated_ = true;
    return value > most ? most : least;
  }
  bool end(const Elements& result) {
    c_.jit->SetVector(field(word_, 0, 5), result.v);
    constexpr std::uint32_t kCumulative = 1u << 27;  // FPSR.QC
    if (saturated_) c_.jit->SetFpsr(c_.jit->GetFpsr() | kCumulative);
    return true;
  }

  // SQDMULL and with `sign` SQDMLAL, SQDMLSL; the second factor is element `index`, or where that is negative the
  // first's.
  bool multiply(int sign, Elements second, int index) {
    const unsigned narrow = size(), wide = narrow + 1;
    if (narrow != 1 && narrow != 2) return false;
    const unsigned count = scalar() ? 1 : 64 / (8u << narrow),
                   first_element = !scalar() && field(word_, 30, 1) ? count : 0;
    const Elements first = source(5), sum = source(0);
    Elements result;
    for (unsigned n = 0; n < count; ++n) {
      const Wide factor = second.get(index < 0 ? first_element + n : static_cast<unsigned>(index), narrow, true);
      const Wide product = saturate(2 * first.get(first_element + n, narrow, true) * factor, 8u << wide, true);
      result.set(n, wide, sign ? saturate(sum.get(n, wide, true) + sign * product, 8u << wide, true) : product);
    }
    return end(result);
  }

  bool shift_left() {
    const bool is_unsigned = field(word_, 29, 1);
    const unsigned bits = 8u << size();
    if (!scalar() && size() == 3 && !field(word_, 30, 1)) return false;
    const unsigned count = scalar() ? 1 : (field(word_, 30, 1) ? 128 : 64) / bits;
    const Elements values = source(5), shifts = source(16);
    Elements result;
    for (unsigned n = 0; n < count; ++n) {
      const Wide value = values.get(n, size(), !is_unsigned);
      const auto by = static_cast<std::int8_t>(shifts.get(n, size(), false));
      Wide shifted;
      if (by < -64) shifted = 0;
      else if (by < 0) shifted = (value + (Wide{1} << (-by - 1))) >> -by;
      else if (by < 64) shifted = value * (Wide{1} << by);
      else shifted = value == 0 ? 0 : value > 0 ? Wide{1} << 100 : -(Wide{1} << 100);
      result.set(n, size(), saturate(shifted, bits, !is_unsigned));
    }
    return end(result);
  }

  bool shift_right_narrow(bool from_unsigned, bool to_unsigned) {
    const unsigned immh = field(word_, 19, 4);
    if (immh == 0 || immh >= 8) return false;
    const auto narrow = static_cast<unsigned>(std::bit_width(immh)) - 1;
    const unsigned bits = 8u << narrow, by = 2 * bits - field(word_, 16, 7);
    const Wide value = source(5).get(0, narrow + 1, !from_unsigned);
    Elements result;
    result.set(0, narrow, saturate((value + (Wide{1} << (by - 1))) >> by, bits, !to_unsigned));
    return end(result);
  }

 private:
  Callbacks& c_;
  std::uint32_t word_;
  bool saturated_ = false;
};

// By element: which one, and the register it is in.
bool multiply_by_element(Callbacks& c, std::uint32_t word, int sign) {
  Operation o(c, word);
  const unsigned high = field(word, 11, 1), low = field(word, 21, 1), middle = field(word, 20, 1);
  const bool half = o.size() == 1;
  const unsigned reg = half ? field(word, 16, 4) : field(word, 16, 5);
  const unsigned index = half ? high << 2 | low << 1 | middle : high << 1 | low;
  return o.multiply(sign, {c.jit->GetVector(reg)}, static_cast<int>(index));
}

template <int sign>
bool multiply_vectors(Callbacks& c, std::uint32_t word) {
  Operation o(c, word);
  return o.multiply(sign, o.source(16), -1);
}
template <int sign>
bool multiply_element(Callbacks& c, std::uint32_t word) {
  return multiply_by_element(c, word, sign);
}

bool shift_left(Callbacks& c, std::uint32_t word) { return Operation(c, word).shift_left(); }

constexpr Form kSaturating[] = {
    {0xbf20fc00, 0x0e209000, multiply_vectors<1>},    // SQDMLAL
    {0xff20fc00, 0x5e209000, multiply_vectors<1>},    // the same of scalars
    {0xbf20fc00, 0x0e20b000, multiply_vectors<-1>},   // SQDMLSL
    {0xff20fc00, 0x5e20b000, multiply_vectors<-1>},
    {0xff20fc00, 0x5e20d000, multiply_vectors<0>},    // SQDMULL
    {0xbf00f400, 0x0f003000, multiply_element<1>},    // SQDMLAL by element
    {0xff00f400, 0x5f003000, multiply_element<1>},
    {0xbf00f400, 0x0f007000, multiply_element<-1>},   // SQDMLSL by element
    {0xff00f400, 0x5f007000, multiply_element<-1>},
    {0x9f20fc00, 0x0e205c00, shift_left},             // SQRSHL, UQRSHL
    {0xdf20fc00, 0x5e205c00, shift_left},
    {0xff80fc00, 0x5f009c00,
     [](Callbacks& c, std::uint32_t word) { return Operation(c, word).shift_right_narrow(false, false); }},  // SQRSHRN
    {0xff80fc00, 0x7f008c00,
     [](Callbacks& c, std::uint32_t word) { return Operation(c, word).shift_right_narrow(false, true); }},  // SQRSHRUN
    {0xff80fc00, 0x7f009c00,
     [](Callbacks& c, std::uint32_t word) { return Operation(c, word).shift_right_narrow(true, true); }},  // UQRSHRN
};

}  // namespace

bool saturating(Callbacks& c, std::uint32_t word) { return carry_out_one_of(kSaturating, c, word); }

}  // namespace ramet::vmm::soft
