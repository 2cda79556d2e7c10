// Where the fuzzer's guest has memory of each kind.
#pragma once

#include "guest-mm/types.hpp"

namespace ramet::fuzz {

using mm::Gva, mm::kPageSize;
using Word = std::uint64_t;

inline constexpr Gva kCode = 0x401000, kHandler = 0x402000, kRestorer = 0x403000;  // nothing is there: no code runs

inline constexpr Gva kArena = 0x2000'0000;
inline constexpr Gva kBuffer = kArena;  // structures are put here, in a part for each thread
inline constexpr Word kBufferBytes = 512 << 10, kPartBytes = 32 << 10;
inline constexpr Gva kStack = kArena + 0x10'0000, kStackBytes = 256 << 10;
inline constexpr Gva kNone = kArena + 0x20'0000, kReadOnly = kArena + 0x21'0000, kSharedMemory = kArena + 0x22'0000;
inline constexpr Gva kSharedFile = kArena + 0x23'0000;  // truncated to its first page
inline constexpr Gva kPrivateFile = kArena + 0x24'0000, kCodePage = kArena + 0x25'0000, kPinned = kArena + 0x26'0000;
inline constexpr Gva kSharedReadOnly = kArena + 0x27'0000;
inline constexpr Gva kHole = kArena + 0x30'0000;
inline constexpr Gva kBlock = kArena + 0x40'0000;  // 4 MiB, touched: two blocks
inline constexpr Gva kRing = kArena + 0x100'0000, kRingEntries = kRing + 0x10'0000;

}  // namespace ramet::fuzz
