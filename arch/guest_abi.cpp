#include "arch/guest_abi.hpp"

#include <initializer_list>

#include "arch/arm64/guest_abi.hpp"
#include "arch/x86_64/guest_abi.hpp"

namespace ramet::arch {

const GuestAbi* find_guest_abi(std::uint32_t elf_machine) {
  for (const GuestAbi* abi : {&x86_64::kGuestAbi, &arm64::kGuestAbi})
    if (abi->elf_machine == elf_machine) return abi;
  return nullptr;
}

}  // namespace ramet::arch
