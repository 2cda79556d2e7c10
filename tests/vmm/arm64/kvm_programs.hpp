// What the tests of the KVM machine have user code do, in arm64's instructions. Its twin has the same names.
#pragma once

#include <array>
#include <cstdint>

#include "arch/arm64/entry.hpp"
#include "arch/arm64/user_state.hpp"

namespace ramet::vmm::testing::programs {

using Instruction = std::uint32_t;
using Entries = arch::arm64::Stage1;

// Registers, by what the programs below use them for. No program changes `Other`.
inline constexpr unsigned Pc = arch::arm64::Pc, Value = arch::arm64::X0, Place = Value + 1, Step = Value + 2,
                          Times = Value + 3, Count = Value + 4, Other = Value + 12;

inline constexpr auto kCall = std::to_array<Instruction>({0xd4000001});
inline constexpr auto kLoop = std::to_array<Instruction>({0x14000000});
// Value = word at Place. Call.
inline constexpr auto kLoadAndCall = std::to_array<Instruction>({0xf9400020, 0xd4000001});
// Adds one to the word at Place. Call; for ever.
inline constexpr auto kIncrementAndCall = std::to_array<Instruction>({0xf9400020, 0x91000400, 0xf9000020, 0xd4000001});
inline constexpr auto kIncrementForEver = std::to_array<Instruction>({0xf9400020, 0x91000400, 0xf9000020, 0x17fffffd});
// Times times: loads the word at Place; Place += Step. Call.
inline constexpr auto kLoadEachAndCall = std::to_array<Instruction>(
    {0xf9400020, 0x8b020021, 0xf1000463, 0x54ffffa1, 0xd4000001});
// Times times: adds one to the word at Place; Place += page. Call.
inline constexpr auto kIncrementPagesAndCall = std::to_array<Instruction>(
    {0xf9400020, 0x91000400, 0xf9000020, 0x91400421, 0xf1000463, 0x54ffff61, 0xd4000001});
// Times times: adds one to the word at Place, atomically. Call.
inline constexpr auto kAtomicIncrementsAndCall = std::to_array<Instruction>(
    {0xc85f7c20, 0x91000400, 0xc8057c20, 0x35ffffa5, 0xf1000463, 0x54ffff61, 0xd4000001});
// Count += 1, for ever; 4096 times, then a call.
inline constexpr auto kCountForEver = std::to_array<Instruction>({0x91000484, 0x17ffffff});
inline constexpr auto kCountAndCall = std::to_array<Instruction>(
    {0xd2820005, 0x91000484, 0xf10004a5, 0x54ffffc1, 0xd4000001});
// For ever: Count += 1; call; the word at Place = Count. Offset behind the call, and length of the store.
inline constexpr auto kCallAndStore = std::to_array<Instruction>({0x91000484, 0xd4000001, 0xf9000024, 0x17fffffd});
inline constexpr std::uint64_t kBehindCall = 8, kStoreLength = 4;

// Whether the host emulates the processor, and so is slow. An arm64 host does not tell.
inline bool emulated() { return true; }
// Whether a processor may have dropped an entry by itself, before any flush.
inline bool drops_by_itself() { return true; }

}  // namespace ramet::vmm::testing::programs
