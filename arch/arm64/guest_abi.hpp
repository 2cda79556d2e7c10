// What Linux on arm64 is to its programs: see arch/guest_abi.hpp.
#pragma once

#include "arch/guest_abi.hpp"

namespace ramet::arch::arm64 {

extern const GuestAbi kGuestAbi;

}  // namespace ramet::arch::arm64
