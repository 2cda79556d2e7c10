// The ABI of Linux on arm64: see arch/guest_abi.hpp.
#pragma once

#include "arch/guest_abi.hpp"

namespace ramet::arch::arm64 {

extern const GuestAbi kGuestAbi;

}  // namespace ramet::arch::arm64
