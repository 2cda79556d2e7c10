// The vDSO's image of x86-64 programs (vdso.S).
#pragma once

#include <cstddef>
#include <span>

#include "arch/vdso.hpp"

extern "C" const std::byte ramet_vdso[], ramet_vdso_end[];

namespace ramet::arch::x86_64 {

// At most VDSO_PAGE bytes.
inline std::span<const std::byte> vdso_image() {
  return {ramet_vdso, static_cast<std::size_t>(ramet_vdso_end - ramet_vdso)};
}

}  // namespace ramet::arch::x86_64
