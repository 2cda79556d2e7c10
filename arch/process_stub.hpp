// The code of */host/process_stub.S, which the VMM puts into a guest's host process, its entry points, and how such a
// process differs between architectures.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "arch/process_layout.h"
#include "arch/user_state.hpp"

extern "C" std::byte ramet_process_stub[], ramet_process_stub_end[], ramet_process_stub_handler[],
    ramet_process_stub_command[], ramet_process_stub_return[];

namespace ramet::arch::process_stub {

inline std::span<const std::byte> code() {
  return {ramet_process_stub, static_cast<std::size_t>(ramet_process_stub_end - ramet_process_stub)};
}
// Addresses in the process.
inline std::uint64_t at(const std::byte* symbol) {
  return RAMET_STUB_TEXT + static_cast<std::uint64_t>(symbol - ramet_process_stub);
}
inline std::uint64_t handler() { return at(ramet_process_stub_handler); }

// AUDIT_ARCH_*, as seccomp names the architecture.
extern const std::uint32_t kAuditArchitecture;
// The end of the addresses that a host process can map.
std::uint64_t address_end();

// A thread sets base n by call `number` with codes[n] and the base. `by_kernel`: the host's kernel carries it out; else
// the stub does.
struct BaseCall {
  std::uint64_t number;
  std::array<std::uint32_t, kMostBases> codes;
  bool by_kernel;
};
extern const BaseCall kBaseCall;
// Whether user code can read and write its bases by itself.
bool reads_bases();

struct NamedCall {
  const char* name;
  std::uint64_t number;
  std::array<std::uint64_t, 5> arguments;
};
// Maps the host's vDSO at RAMET_HOST_VDSO. nullopt: this architecture's kernel cannot do that.
extern const std::optional<NamedCall> kMapVdso;
// Further calls that a process makes first, so that its guest has no state of the process's own.
std::vector<NamedCall> first_calls();

}  // namespace ramet::arch::process_stub
