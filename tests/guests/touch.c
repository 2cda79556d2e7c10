// First touches of anonymous memory: touch sequential|scattered MIB
//   sequential  every page in order     scattered  16 pages in sequence in every MiB, without huge pages
#define _GNU_SOURCE
#include <stdint.h>
#include <sys/mman.h>

#include "check.h"

int main(int argc, char** argv) {
  CHECK(argc == 3);
  int scattered = strcmp(argv[1], "scattered") == 0;
  size_t bytes = (size_t)atol(argv[2]) << 20, stride = scattered ? (size_t)1 << 20 : 16 * 4096, pages = 0;
  volatile char* p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(p != MAP_FAILED);
  if (scattered) CHECK(madvise((void*)p, bytes, MADV_NOHUGEPAGE) == 0);
  for (size_t at = 0; at < bytes; at += stride)
    for (size_t i = 0; i < 16 * 4096; i += 4096, ++pages) {
      CHECK(p[at + i] == 0);
      p[at + i] = (char)(pages + 1);
    }
  size_t wrong = 0, page = 0;
  for (size_t at = 0; at < bytes; at += stride)
    for (size_t i = 0; i < 16 * 4096; i += 4096, ++page) wrong += p[at + i] != (char)(page + 1);
  printf("%zu pages, %zu wrong\n", pages, wrong);
  return 0;
}
