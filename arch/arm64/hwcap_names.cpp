#include "arch/arm64/hwcap_names.hpp"

#include <span>

namespace ramet::arch::arm64 {

std::string feature_names(std::uint64_t hwcap, std::uint64_t hwcap2) {
  std::string out;
  const auto add = [&](std::uint64_t bits, std::span<const std::string_view> names) {
    for (std::size_t bit = 0; bit < names.size(); ++bit) {
      if ((bits >> bit & 1) == 0) continue;
      if (!out.empty()) out += ' ';
      out += names[bit];
    }
  };
  add(hwcap, kHwcapNames);
  add(hwcap2, kHwcap2Names);
  return out;
}

}  // namespace ramet::arch::arm64
