#include "arch/arm64/guest_abi.hpp"

#include <elf.h>

namespace ramet::arch::arm64 {

// With addresses of 39 bits, which every machine has.
const GuestAbi kGuestAbi{
    .name = "arm64",
    .machine = "aarch64",
    .elf_machine = EM_AARCH64,
    .user_end = 0x7f'fc00'0000,
    .processor_end = 1ull << 48,
    .program_base = 0x55'0000'0000,
    .program_spread = 1ull << 30,
};

}  // namespace ramet::arch::arm64
