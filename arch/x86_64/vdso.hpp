// The vDSO of guest programs: its image (vdso.S), and the data page before it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "arch/x86_64/vdso_layout.h"

extern "C" const std::byte ramet_vdso[], ramet_vdso_end[];

namespace ramet::arch::x86_64 {

// Functions of a vDSO, as addresses; 0: it has not that one.
struct VdsoFunctions {
  std::uint64_t clock_gettime = 0, clock_getres = 0, gettimeofday = 0, time = 0, getcpu = 0;
};

struct VdsoData {
  std::uint32_t same = 0, moved = 0;
  VdsoFunctions host;
  std::uint64_t unused[2] = {};
  struct Offset {
    std::int64_t seconds = 0, nanoseconds = 0;
  };
  std::array<Offset, VDSO_CLOCKS> offsets;
};
static_assert(offsetof(VdsoData, same) == VDSO_SAME && offsetof(VdsoData, moved) == VDSO_MOVED);
static_assert(offsetof(VdsoData, host.clock_gettime) == VDSO_CLOCK_GETTIME && offsetof(VdsoData, host.clock_getres) == VDSO_CLOCK_GETRES);
static_assert(offsetof(VdsoData, host.gettimeofday) == VDSO_GETTIMEOFDAY && offsetof(VdsoData, host.time) == VDSO_TIME);
static_assert(offsetof(VdsoData, host.getcpu) == VDSO_GETCPU && offsetof(VdsoData, offsets) == VDSO_OFFSETS);
static_assert(sizeof(VdsoData) <= VDSO_PAGE);

// At most VDSO_PAGE bytes.
inline std::span<const std::byte> vdso_image() { return {ramet_vdso, static_cast<std::size_t>(ramet_vdso_end - ramet_vdso)}; }

}  // namespace ramet::arch::x86_64
