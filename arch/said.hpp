// For */host/process_frame.cpp: access to the said area of a host process (process_layout.h), which the process may
// change at any time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <type_traits>

#include "arch/process_layout.h"

namespace ramet::arch::said {

// Volatile, so that the compiler reads the value once.
template <class T>
T read(std::span<const std::byte> from, std::size_t at) {
  T value;
  if constexpr (std::is_scalar_v<T>) {
    value = *reinterpret_cast<const volatile T*>(from.data() + at);
  } else {
    std::memcpy(&value, from.data() + at, sizeof value);
    asm volatile("" ::: "memory");
  }
  return value;
}
template <class T>
void write(std::span<std::byte> to, std::size_t at, const T& value) {
  std::memcpy(to.data() + at, &value, sizeof value);
}

// The process's address `at` as an offset into the said area; nullopt unless [at, at + bytes) is aligned and lies in
// the signal stack.
inline std::optional<std::uint32_t> place(std::uint64_t at, std::uint64_t base, std::uint32_t bytes,
                                          std::uint64_t alignment) {
  const std::uint64_t offset = at - base;
  if (offset < RAMET_SIGNAL_STACK || offset > RAMET_SAID_SIZE - bytes || offset % alignment != 0) return std::nullopt;
  return static_cast<std::uint32_t>(offset);
}

}  // namespace ramet::arch::said
