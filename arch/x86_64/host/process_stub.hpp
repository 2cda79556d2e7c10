// The code of process_stub.S, as the VMM puts it into a guest's host process, and what it says of itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "arch/x86_64/host/process_layout.h"

extern "C" std::byte ramet_process_stub[], ramet_process_stub_end[], ramet_process_stub_handler[],
    ramet_process_stub_command[], ramet_process_stub_return[];

namespace ramet::arch::x86_64::process_stub {

inline std::span<const std::byte> code() {
  return {ramet_process_stub, static_cast<std::size_t>(ramet_process_stub_end - ramet_process_stub)};
}
// Addresses in the process.
inline std::uint64_t at(const std::byte* symbol) {
  return RAMET_STUB_TEXT + static_cast<std::uint64_t>(symbol - ramet_process_stub);
}
inline std::uint64_t handler() { return at(ramet_process_stub_handler); }

}  // namespace ramet::arch::x86_64::process_stub
