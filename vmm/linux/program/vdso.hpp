// The vDSO in a program's memory: its data page, "[vvar]", and its image, "[vdso]" (see arch/vdso.hpp).
#pragma once

#include "guest-mm/address_space.hpp"
#include "vmm/linux/program/image.hpp"
#include "vmm/linux/time/clocks.hpp"

namespace ramet::vmm {

// Of data page and image together.
inline constexpr std::uint64_t kVdsoBytes = 2 * VDSO_PAGE;

// Maps both into a new program's memory, from that address on, and sets Image::vdso. Errors: as AddressSpace::map().
mm::Result<> map_vdso(Image&, mm::Gva at, const Clocks&);
// For a program from a snapshot: writes its data page anew, for this host. A page that the program has unmapped or
// moved stays as it is. Errors: NoMemory.
mm::Result<> renew_vdso(Image&, const Clocks&);

// Whether `pc` is in the vDSO's code, the program's own or the host's, on a machine that lets it call the host's. What
// is in registers there is good for this host only: see Thread::step_out().
bool in_vdso(const Image&, mm::Gva pc);

}  // namespace ramet::vmm
