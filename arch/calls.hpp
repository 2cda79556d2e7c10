// System calls by name, whatever their numbers in a program's ABI: GuestAbi::call_of() maps numbers to them. Values are
// x86-64's numbers. A number that no architecture uses is its own value, so that it can be named in reports, and used
// for ramet's own calls (ramet_guest.h).
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
// For numbers that are too large, or that mean a call on x86-64 but none in the program's ABI.
inline constexpr Call kNoCall{kMostCalls - 1};

}  // namespace ramet::arch
