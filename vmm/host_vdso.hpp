// The vDSO that the host's kernel maps into its processes, as seen in the VMM itself.
#pragma once

#include <cstdint>

#include "arch/vdso.hpp"

namespace ramet::vmm {

using arch::VdsoFunctions;

// Machines have room for so much.
inline constexpr std::uint64_t kMostHostVdsoBytes = 1ull << 20;

struct HostVdso {
  std::uint64_t address = 0;             // of the first page of data, in the VMM
  std::uint64_t data_bytes = 0;          // of the pages of data, which lie just before the image
  std::uint64_t image_bytes = 0;         // 0: the host maps none, or not like this; then there is nothing of it
  VdsoFunctions functions;               // relative to the image

  VdsoFunctions functions_at(std::uint64_t image) const;
};

const HostVdso& host_vdso();

// The functions of the vDSO's ELF image that lies at `image`, in memory, relative to it; 0 for those it has not. The
// image is the kernel's or ours, and not checked.
VdsoFunctions find_functions(const std::byte* image);

}  // namespace ramet::vmm
