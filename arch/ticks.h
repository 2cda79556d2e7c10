// The processor's own clock, readable by user code without a system call. C, so that guests can include it as well.
#pragma once

#include <stdint.h>

// A counter of constant rate: x86-64's time stamp counter (Intel SDM 3B, 18.17), arm64's virtual counter (Arm ARM,
// D12.2). It is read after all earlier instructions. A guest sees the host's counter if its machine allows that.
static inline uint64_t ramet_ticks(void) {
#if defined(__x86_64__)
  uint32_t low, high;
  __asm__ volatile("lfence\n\trdtsc" : "=a"(low), "=d"(high) : : "memory");
  return (uint64_t)high << 32 | low;
#elif defined(__aarch64__)
  uint64_t ticks;
  __asm__ volatile("isb\n\tmrs %0, cntvct_el0" : "=r"(ticks) : : "memory");
  return ticks;
#else
#error "unknown architecture"
#endif
}
