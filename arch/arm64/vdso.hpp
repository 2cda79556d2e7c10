// The vDSO's image of arm64 programs (vdso.S).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "arch/vdso.hpp"

extern "C" const std::byte ramet_vdso_arm64[], ramet_vdso_arm64_end[], ramet_vdso_arm64_rt_sigreturn[];

namespace ramet::arch::arm64 {

// At most VDSO_PAGE bytes.
inline std::span<const std::byte> vdso_image() {
  return {ramet_vdso_arm64, static_cast<std::size_t>(ramet_vdso_arm64_end - ramet_vdso_arm64)};
}
// The offset in the image where a handler without SA_RESTORER returns to.
inline std::uint64_t vdso_rt_sigreturn() {
  return static_cast<std::uint64_t>(ramet_vdso_arm64_rt_sigreturn - ramet_vdso_arm64);
}

}  // namespace ramet::arch::arm64
