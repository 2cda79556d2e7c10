// Sums of numbers that come from a guest, which may be as large as their type allows.
#pragma once

#include <concepts>
#include <optional>

namespace ramet::vmm {

// nullopt: the sum does not fit into T.
template <std::integral T>
constexpr std::optional<T> checked_sum(T a, T b) {
  T sum;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

}  // namespace ramet::vmm
