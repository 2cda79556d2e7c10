// System calls by name, whatever number a program makes them by: GuestAbi::call_of() tells which one a number is.
// Values are x86-64's numbers. A number that is no call's anywhere is its own value, so that it can be told of, and be
// ours (ramet_guest.h).
#pragma once

#include <cstddef>
#include <cstdint>

namespace ramet::arch {

enum class Call : std::uint16_t {
#define X(value, name) name = value,
#include "arch/calls.inc"
#undef X
};

inline constexpr std::size_t kMostCalls = 512;
// Numbers that are too large, or no call's here but some other's on x86-64.
inline constexpr Call kNoCall{kMostCalls - 1};

}  // namespace ramet::arch
