// Time from the processor's own clock, for guests (C) and for what stands beside them.
#pragma once

#include <time.h>

#include "arch/ticks.h"

// Measured against the monotonic clock; takes 50 ms.
static inline double ns_per_tick(void) {
  const struct timespec pause = {0, 50000000};
  struct timespec a, b;
  clock_gettime(CLOCK_MONOTONIC, &a);
  const uint64_t from = ramet_ticks();
  nanosleep(&pause, NULL);
  clock_gettime(CLOCK_MONOTONIC, &b);
  const uint64_t to = ramet_ticks();
  return ((double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec)) / (double)(to - from);
}
