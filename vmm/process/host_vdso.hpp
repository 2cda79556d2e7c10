// The vDSO that the host's kernel maps into its processes, as seen in the VMM itself: the same in a guest's process.
#pragma once

#include <cstdint>

#include "arch/vdso.hpp"

namespace ramet::vmm::process {

struct HostVdso {
  std::uint64_t data_bytes = 0;          // of the pages of data, which lie just before the image
  std::uint64_t image_bytes = 0;         // 0: the host maps none, or not like this
  arch::VdsoFunctions functions;  // relative to the image

  arch::VdsoFunctions functions_at(std::uint64_t image) const;
};

const HostVdso& host_vdso();

// The functions of the vDSO's ELF image that lies at `image`, in memory, relative to it; 0 for those it has not. The
// image is the kernel's or ours, and not checked.
arch::VdsoFunctions find_functions(const std::byte* image);

}  // namespace ramet::vmm::process
