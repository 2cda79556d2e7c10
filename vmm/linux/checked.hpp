// Sums of numbers that a guest chose: it may choose the largest.
#pragma once

#include <concepts>
#include <optional>

namespace ramet::vmm {

// None: the sum is more, or less, than the type can hold.
template <std::integral T>
constexpr std::optional<T> checked_sum(T a, T b) {
  T sum;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

}  // namespace ramet::vmm
