// As much of BTF as describes maps: the variables of the section `.maps`, each a structure whose members' types say
// numbers by the length of an array (__uint) and keys and values by what they point to (__type).
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

// From the section `.BTF`; else what is wrong, in one sentence.
[[nodiscard]] std::expected<std::vector<BtfMap>, std::string> maps_of_btf(std::span<const std::byte> btf);

}  // namespace ramet::jit
