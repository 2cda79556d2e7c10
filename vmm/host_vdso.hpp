// The vDSO that the host's kernel maps into its processes, as seen in the VMM itself.
#pragma once

#include <cstdint>

#include "arch/vdso.hpp"

namespace ramet::vmm {

using arch::VdsoFunctions;

// Of data and image: machines have no room for more.
inline constexpr std::uint64_t kMostHostVdsoBytes = 1ull << 20;

struct HostVdso {
  std::uint64_t address = 0;             // of the first page of data, in the VMM
  std::uint64_t data_bytes = 0;          // of the pages of data, which lie just before the image
  std::uint64_t image_bytes = 0;         // 0: the host maps none, or not like this; then all else is 0 as well
  VdsoFunctions functions;               // relative to the image

  // Their addresses where the image is mapped at `image`; 0 for those that it lacks.
  VdsoFunctions functions_at(std::uint64_t image) const;
};

const HostVdso& host_vdso();

// The functions of a vDSO whose ELF image lies in memory at `image`, relative to it; 0 for those that it lacks. The
// image is trusted: it is the kernel's or ours.
VdsoFunctions find_functions(const std::byte* image);

}  // namespace ramet::vmm
