// The page of data before the vDSO of guest programs, whatever their instruction set.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "arch/vdso_layout.h"

namespace ramet::arch {

// Addresses of a vDSO's functions; 0: the vDSO does not have the function.
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
static_assert(offsetof(VdsoData, host.clock_gettime) == VDSO_CLOCK_GETTIME &&
              offsetof(VdsoData, host.clock_getres) == VDSO_CLOCK_GETRES);
static_assert(offsetof(VdsoData, host.gettimeofday) == VDSO_GETTIMEOFDAY && offsetof(VdsoData, host.time) == VDSO_TIME);
static_assert(offsetof(VdsoData, host.getcpu) == VDSO_GETCPU && offsetof(VdsoData, offsets) == VDSO_OFFSETS);
static_assert(sizeof(VdsoData) <= VDSO_PAGE);

}  // namespace ramet::arch
