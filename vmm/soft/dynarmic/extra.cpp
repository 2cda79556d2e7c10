#include "vmm/soft/dynarmic/extra.hpp"

#include <algorithm>
#include <cstdint>

#include "vmm/soft/dynarmic/callbacks.hpp"
#include "vmm/soft/dynarmic/form.hpp"
#include "vmm/soft/dynarmic/saturating.hpp"

namespace ramet::vmm::soft {
namespace {

constexpr unsigned kZero = 31;  // the register that is zero, or the stack pointer where an address is taken

std::uint64_t get(Callbacks& c, unsigned n) { return n == kZero ? 0 : c.jit->GetRegister(n); }
void set(Callbacks& c, unsigned n, std::uint64_t value) {
  if (n != kZero) c.jit->SetRegister(n, value);
}
std::uint64_t base(Callbacks& c, std::uint32_t word) {
  const unsigned n = field(word, 5, 5);
  return n == kZero ? c.jit->GetSP() : c.jit->GetRegister(n);
}
std::uint64_t truncated(std::uint64_t value, unsigned size) {
  return size == 3 ? value : value & ((1ull << (8u << size)) - 1);
}
std::int64_t extended(std::uint64_t value, unsigned size) {
  const unsigned shift = 64 - (8u << size);
  return static_cast<std::int64_t>(value << shift) >> shift;
}

// What LDADD and its like, and SWP, store; nothing: no such operation.
std::optional<std::uint64_t> combined(unsigned operation, std::uint64_t old, std::uint64_t with, unsigned size) {
  enum : unsigned { Add, Clr, Eor, Set, Smax, Smin, Umax, Umin, Swp };
  switch (operation) {
    case Add: return old + with;
    case Clr: return old & ~with;
    case Eor: return old ^ with;
    case Set: return old | with;
    case Smax: return extended(old, size) > extended(with, size) ? old : with;
    case Smin: return extended(old, size) < extended(with, size) ? old : with;
    case Umax: return std::max(old, with);
    case Umin: return std::min(old, with);
    case Swp: return with;
    default: return std::nullopt;
  }
}

bool read_modify_write(Callbacks& c, std::uint32_t word) {
  const unsigned size = field(word, 30, 2), operation = field(word, 12, 4);
  const std::uint64_t with = truncated(get(c, field(word, 16, 5)), size), at = base(c, word);
  std::uint64_t old = 0;  // a guess
  for (;;) {
    const auto desired = combined(operation, old, with, size);
    if (!desired) return false;
    const std::uint64_t found = c.exchange(at, size, old, truncated(*desired, size));
    if (c.stop) return true;
    if (found == old) break;
    old = found;
  }
  set(c, field(word, 0, 5), old);
  return true;
}

bool compare_and_swap(Callbacks& c, std::uint32_t word) {
  const unsigned size = field(word, 30, 2), expected = field(word, 16, 5);
  const std::uint64_t found = c.exchange(base(c, word), size, truncated(get(c, expected), size),
                                         truncated(get(c, field(word, 0, 5)), size));
  if (!c.stop) set(c, expected, found);
  return true;
}

bool compare_and_swap_pair(Callbacks& c, std::uint32_t word) {
  const unsigned expected = field(word, 16, 5), desired = field(word, 0, 5);
  if (expected % 2 || desired % 2) return false;
  const auto high = [](unsigned n) { return n == kZero - 1 ? kZero : n + 1; };
  const std::uint64_t at = base(c, word);
  if (field(word, 30, 1)) {
    Vector old{get(c, expected), get(c, high(expected))};
    (void)c.exchange_pair(at, old, {get(c, desired), get(c, high(desired))});
    if (c.stop) return true;
    set(c, expected, old[0]);
    set(c, high(expected), old[1]);
    return true;
  }
  const auto pair = [&](unsigned n) { return truncated(get(c, n), 2) | get(c, high(n)) << 32; };
  const std::uint64_t found = c.exchange(at, 3, pair(expected), pair(desired));
  if (c.stop) return true;
  set(c, expected, truncated(found, 2));
  set(c, high(expected), found >> 32);
  return true;
}

constexpr Form kExtra[] = {
    {0x3f200c00, 0x38200000, read_modify_write},  // LDADD, LDCLR, LDEOR, LDSET, LDSMAX, LDSMIN, LDUMAX, LDUMIN, SWP
    {0x3fa07c00, 0x08a07c00, compare_and_swap},  // CAS
    {0xbfa07c00, 0x08207c00, compare_and_swap_pair},  // CASP
    {0xffffffe0, 0xd53be040,  // MRS CNTVCT_EL0
     [](Callbacks& c, std::uint32_t word) {
       set(c, field(word, 0, 5), c.GetCNTPCT());
       return true;
     }},
};

}  // namespace

bool carry_out(Callbacks& c, std::uint32_t word) { return carry_out_one_of(kExtra, c, word) || saturating(c, word); }

}  // namespace ramet::vmm::soft
