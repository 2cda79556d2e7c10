// First touches of anonymous memory. touch sequential|scattered|idle MIB [time]
//   sequential  every page in order          scattered  16 pages in sequence at places far from each other
//   idle        touches MIB in order, then waits for a byte on standard input
// With "time" prints nanoseconds of the touching alone.
#define _GNU_SOURCE
#include <stdint.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int main(int argc, char** argv) {
  CHECK(argc >= 3);
  size_t bytes = (size_t)atol(argv[2]) << 20;
  int scattered = strcmp(argv[1], "scattered") == 0;
  // Scattered: a run of 16 pages in every 1 MiB, so that `bytes` of address space hold bytes / 16 touched.
  size_t stride = (size_t)1 << 20, run = 16 * 4096;
  volatile char* p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(p != MAP_FAILED);
  if (scattered) CHECK(madvise((void*)p, bytes, MADV_NOHUGEPAGE) == 0);
  uint64_t before = now(), pages = 0;
  if (scattered) {
    for (size_t at = 0; at + run <= bytes; at += stride)
      for (size_t i = 0; i < run; i += 4096, ++pages) p[at + i] = 1;
  } else {
    for (size_t at = 0; at < bytes; at += 4096, ++pages) p[at] = 1;
  }
  uint64_t took = now() - before;
  if (argc > 3) printf("%llu\n", (unsigned long long)took);
  else printf("%llu pages\n", (unsigned long long)pages);
  fflush(stdout);
  char byte;
  if (strcmp(argv[1], "idle") == 0) return read(0, &byte, 1) < 0;
  return 0;
}
