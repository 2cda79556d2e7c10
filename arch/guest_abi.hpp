// What Linux of one instruction set is to its programs, as data and a few functions: the rooms above serve programs by
// it, whatever the host they run on. A machine runs guests of one (vmm/machine.hpp), an image is of one. The twins
// x86_64/guest_abi.cpp and arm64/guest_abi.cpp fill it in.
#pragma once

#include <cstdint>

namespace ramet::arch {

struct GuestAbi {
  const char* name;                 // for people: "x86-64"
  const char* machine;              // what uname(2) and AT_PLATFORM call it
  std::uint16_t elf_machine;        // e_machine of its programs

  // Addresses. A program's end at user_end, on every machine: some of them need room above it, below processor_end,
  // where the processor's own user half ends.
  std::uint64_t user_end, processor_end;
  // Position-independent programs go at program_base and up to program_spread bytes above.
  std::uint64_t program_base, program_spread;
};

// By ELF's number; null: none that ramet knows.
const GuestAbi* find_guest_abi(std::uint32_t elf_machine);

}  // namespace ramet::arch
