// Instructions by their fixed bits.
#pragma once

#include <cstdint>
#include <span>

namespace ramet::vmm::soft {

class Callbacks;

struct Form {
  std::uint32_t mask, bits;
  bool (*carry_out)(Callbacks&, std::uint32_t instruction);  // false: reserved
};

constexpr unsigned field(std::uint32_t word, unsigned at, unsigned bits) { return word >> at & ((1u << bits) - 1); }

// False: it is none of these.
inline bool carry_out_one_of(std::span<const Form> forms, Callbacks& callbacks, std::uint32_t word) {
  for (const Form& form : forms)
    if ((word & form.mask) == form.bits) return form.carry_out(callbacks, word);
  return false;
}

}  // namespace ramet::vmm::soft
