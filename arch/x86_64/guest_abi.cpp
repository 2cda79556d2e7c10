#include "arch/x86_64/guest_abi.hpp"

#include <elf.h>

#include "arch/x86_64/user_state.hpp"

namespace ramet::arch::x86_64 {

const GuestAbi kGuestAbi{
    .name = "x86-64",
    .machine = "x86_64",
    .elf_machine = EM_X86_64,
    .user_end = kUserEnd,
    .processor_end = 1ull << 47,
    .program_base = 0x5500'0000'0000,
    .program_spread = 1ull << 38,
};

}  // namespace ramet::arch::x86_64
