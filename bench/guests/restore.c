// Touches memory and waits to be saved. Once continued, it prints the time stamps of its first instruction and of when it
// has read a word of every page: restore MIB
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "arch/ticks.h"
#include "vmm/include/ramet_guest.h"

int main(int argc, char** argv) {
  const size_t bytes = (size_t)atol(argc > 1 ? argv[1] : "64") << 20;
  unsigned char* p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return 1;
  // Half of each page is noise, so that it does not compress to nothing.
  uint64_t state = 1;
  for (size_t i = 0; i < bytes; i += 4096)
    for (size_t word = 0; word < 256; word++) *(uint64_t*)(p + i + 8 * word) = state = state * 6364136223846793005u + 1442695040888963407u;
  ramet_snapshot("ready");
  const uint64_t first = ramet_ticks();
  uint64_t sum = 0;
  for (size_t i = 0; i < bytes; i += 4096) sum += *(volatile uint64_t*)(p + i);
  const uint64_t last = ramet_ticks();
  printf("%llu %llu %llu\n", (unsigned long long)first, (unsigned long long)last, (unsigned long long)sum);
  return 0;
}
