// Threads that map, write, protect, check and unmap memory of their own, and then a layout that stays to the end:
// for those who look at the address space meanwhile. layout [ROUNDS]
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <sys/mman.h>

#include "check.h"

enum { kThreads = 4, kPage = 4096, kBlock = 2 << 20, kRW = PROT_READ | PROT_WRITE };
static int rounds = 100;

static void* change(void* arg) {
  long me = (long)arg, sum = 0;
  for (int i = 0; i < rounds; ++i) {
    size_t length = (size_t)(1 + (i + me) % 3) * kBlock;
    char* p = mmap(NULL, length, kRW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    for (size_t at = 0; at < length; at += 16 * kPage) p[at] = (char)(at / kPage + (size_t)me);
    CHECK(mprotect(p, length / 2, PROT_READ) == 0);
    CHECK(mprotect(p + length / 4, 5 * kPage, PROT_NONE) == 0);
    CHECK(mprotect(p, length, kRW) == 0);
    CHECK(munmap(p + length / 2, 3 * kPage) == 0);
    for (size_t at = 0; at < length; at += 16 * kPage) {
      if (at >= length / 2 && at < length / 2 + 3 * kPage) continue;
      CHECK(p[at] == (char)(at / kPage + (size_t)me));
      ++sum;
    }
    CHECK(munmap(p, length) == 0);
  }
  return (void*)sum;
}

int main(int argc, char** argv) {
  pthread_t threads[kThreads];
  long sum = 0;
  if (argc > 1) rounds = atoi(argv[1]);
  for (long i = 0; i < kThreads; ++i) CHECK(pthread_create(&threads[i], NULL, change, (void*)i) == 0);
  for (int i = 0; i < kThreads; ++i) {
    void* result;
    CHECK(pthread_join(threads[i], &result) == 0);
    sum += (long)result;
  }
  printf("pages as they were left: %ld\n", sum);
  // One block stays a block; three pages of the other are hidden, and keep what they hold.
  char* p = mmap((void*)0x2000000000, 2 * kBlock, kRW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  CHECK(p == (void*)0x2000000000);
  madvise(p, 2 * kBlock, MADV_HUGEPAGE);
  memset(p, 1, 2 * kBlock);
  CHECK(mprotect(p, 3 * kPage, PROT_NONE) == 0);
  puts("left a layout");
  return 0;
}
