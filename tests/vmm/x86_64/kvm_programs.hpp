// What the tests of the KVM machine have user code do, in x86-64's instructions. Its twin has the same names.
#pragma once

#include <cpuid.h>

#include <array>
#include <cstdint>
#include <cstring>

#include "arch/x86_64/entry.hpp"
#include "arch/x86_64/host/cpu.hpp"
#include "arch/x86_64/user_state.hpp"

namespace ramet::vmm::testing {

using enum arch::x86_64::Register;
using enum arch::x86_64::Base;

namespace programs {

using Instruction = std::uint8_t;
using Entries = arch::x86_64::Stage1;

// Registers, by what the programs below use them for. No program changes `Other`.
inline constexpr unsigned Pc = Rip, Value = Rax, Place = Rdi, Step = Rsi, Times = Rdx, Count = Rbx, Other = R12;

inline constexpr auto kCall = std::to_array<Instruction>({0x0f, 0x05});
inline constexpr auto kLoop = std::to_array<Instruction>({0xeb, 0xfe});
// Value = word at Place. Call.
inline constexpr auto kLoadAndCall = std::to_array<Instruction>({0x48, 0x8b, 0x07, 0x0f, 0x05});
// Adds one to the word at Place. Call; for ever.
inline constexpr auto kIncrementAndCall = std::to_array<Instruction>({0x48, 0xff, 0x07, 0x0f, 0x05});
inline constexpr auto kIncrementForEver = std::to_array<Instruction>({0x48, 0xff, 0x07, 0xeb, 0xfb});
// Times times: loads the word at Place; Place += Step. Call.
inline constexpr auto kLoadEachAndCall = std::to_array<Instruction>(
    {0x48, 0x8b, 0x07, 0x48, 0x01, 0xf7, 0x48, 0x83, 0xea, 0x01, 0x75, 0xf4, 0x0f, 0x05});
// Times times: adds one to the word at Place; Place += page. Call.
inline constexpr auto kIncrementPagesAndCall = std::to_array<Instruction>(
    {0x48, 0xff, 0x07, 0x48, 0x81, 0xc7, 0, 0x10, 0, 0, 0x48, 0xff, 0xca, 0x75, 0xf1, 0x0f, 0x05});
// Times times: adds one to the word at Place, atomically. Call.
inline constexpr auto kAtomicIncrementsAndCall = std::to_array<Instruction>(
    {0xf0, 0x48, 0xff, 0x07, 0x48, 0xff, 0xca, 0x75, 0xf7, 0x0f, 0x05});
// Count += 1, for ever; 4096 times, then a call.
inline constexpr auto kCountForEver = std::to_array<Instruction>({0x48, 0xff, 0xc3, 0xeb, 0xfb});
inline constexpr auto kCountAndCall = std::to_array<Instruction>(
    {0xb9, 0, 0x10, 0, 0, 0x48, 0xff, 0xc3, 0xff, 0xc9, 0x75, 0xf9, 0x0f, 0x05});
// For ever: Count += 1; call; the word at Place = Count. Offset behind the call, and length of the store.
inline constexpr auto kCallAndStore = std::to_array<Instruction>(
    {0x48, 0xff, 0xc3, 0x0f, 0x05, 0x48, 0x89, 0x1f, 0xeb, 0xf6});
inline constexpr std::uint64_t kBehindCall = 5, kStoreLength = 3;

// Whether the host emulates the processor, and so is slow: the hypervisor's signature is QEMU's.
inline bool emulated() {
  if ((arch::x86_64::cpuid(1).ecx >> 31) == 0) return false;  // no hypervisor
  unsigned eax, ebx, ecx, edx;
  __cpuid(0x40000000, eax, ebx, ecx, edx);
  return std::memcmp(&ebx, "TCGT", 4) == 0 && std::memcmp(&ecx, "CGTC", 4) == 0 && std::memcmp(&edx, "GTCG", 4) == 0;
}
// Whether a processor may have dropped an entry by itself, before any flush: nested paging does at each exit.
inline bool drops_by_itself() { return arch::x86_64::host_cpu().virtualization; }

}  // namespace programs
}  // namespace ramet::vmm::testing
