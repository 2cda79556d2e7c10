// The ABI of Linux on x86-64: see arch/guest_abi.hpp.
#pragma once

#include "arch/guest_abi.hpp"

namespace ramet::arch::x86_64 {

extern const GuestAbi kGuestAbi;

}  // namespace ramet::arch::x86_64
