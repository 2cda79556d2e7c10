// First touches of anonymous memory, timed around the loop that touches. touch PATTERN [MIB [RUN]]
//   region   one mapping, front to back
//   advised  the same with MADV_HUGEPAGE, so that natively, too, it gets the largest pages there are
//   runs     one mapping of 4 KiB pages (MADV_NOHUGEPAGE), aligned runs of RUN pages at shuffled places,
//            front to back within a run
//   chunks   RUN pages each in mappings of their own, too small for a huge page, one after the other
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { kPage = 4096 };

static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void touch(char* at, size_t pages) {
  for (size_t i = 0; i < pages; ++i) *(volatile char*)(at + i * kPage) = 1;
}

static char* map(size_t bytes) {
  char* p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) exit(1);
  return p;
}

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  size_t pages = (argc > 2 ? strtoul(argv[2], NULL, 10) : 256) << 8;
  size_t run = argc > 3 ? strtoul(argv[3], NULL, 10) : 16;
  if (run == 0) return 2;
  size_t count = pages / run;
  size_t* order = malloc((count + 1) * sizeof *order);
  char** at = malloc((count + 1) * sizeof *at);
  if (!order || !at) return 1;
  memset(at, 0, (count + 1) * sizeof *at);  // their own first touches are over before the clock starts
  uint64_t state = 88172645463325252u;
  for (size_t i = 0; i < count; ++i) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    size_t j = state % (i + 1);
    order[i] = order[j], order[j] = i;
  }

  uint64_t start, end;
  if (strcmp(argv[1], "region") == 0 || strcmp(argv[1], "advised") == 0) {
    char* p = pages ? map(pages * kPage) : NULL;
    if (argv[1][0] == 'a') madvise(p, pages * kPage, MADV_HUGEPAGE);
    start = now();
    touch(p, pages);
    end = now();
  } else if (strcmp(argv[1], "runs") == 0) {
    char* p = pages ? map(pages * kPage) : NULL;
    madvise(p, pages * kPage, MADV_NOHUGEPAGE);
    start = now();
    for (size_t i = 0; i < count; ++i) touch(p + order[i] * run * kPage, run);
    end = now();
  } else if (strcmp(argv[1], "chunks") == 0) {
    for (size_t i = 0; i < count; ++i) {  // the inaccessible page keeps neighbours from becoming one mapping
      at[i] = map((run + 1) * kPage);
      mprotect(at[i] + run * kPage, kPage, PROT_NONE);
    }
    start = now();
    for (size_t i = 0; i < count; ++i) touch(at[i], run);
    end = now();
  } else {
    return 2;
  }
  printf("touch_ns %llu\npages %zu\n", (unsigned long long)(end - start), count * run);
  return 0;
}
