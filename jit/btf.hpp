// The part of BTF that describes maps: the variables of the section `.maps`, each a structure. A member's type gives a
// number by the length of an array (__uint), or a key's or value's size by the type that it points to (__type).
#pragma once

#include <cstddef>
#include <cstdint>
#include <expected>
#include <span>
#include <string>
#include <vector>

#include "jit/program.hpp"

namespace ramet::jit {

struct BtfMap {
  MapDefinition definition;
  std::uint64_t at = 0;  // in the section
};

// The maps that the section `.BTF` describes. Errors: what is wrong, in one sentence.
[[nodiscard]] std::expected<std::vector<BtfMap>, std::string> maps_of_btf(std::span<const std::byte> btf);

}  // namespace ramet::jit
