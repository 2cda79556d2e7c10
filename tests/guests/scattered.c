// Copies on write all over a large heap: scattered MEBIBYTES STRIDE. A heap of which every page was written, and a fork; then
// child and parent write every STRIDEth page, each others, twice, from back to front the second time. What they find is what
// was written there by themselves, or by the parent before the fork.
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum { kPage = 4096, kWords = kPage / sizeof(uint64_t) };
static volatile uint64_t* heap;
static uint64_t pages, stride;

static volatile uint64_t* word(uint64_t page) { return &heap[page * kWords + page % kWords]; }
static uint64_t value(uint64_t page, uint64_t writer) { return (page + 1) * 0x9e3779b97f4a7c15u ^ writer; }

static void write_some(uint64_t first) {
  for (uint64_t page = first; page < pages; page += stride) *word(page) = value(page, first + 1);
  for (uint64_t page = pages - stride + first; page < pages; page -= stride) {
    CHECK(*word(page) == value(page, first + 1));
    *word(page) = value(page, first + 3);
  }
}
static void look(uint64_t first) {
  for (uint64_t page = 0; page < pages; ++page) CHECK(*word(page) == value(page, page % stride == first ? first + 3 : 0));
}

int main(int argc, char** argv) {
  CHECK(argc == 3);
  stride = strtoull(argv[2], NULL, 10);
  pages = strtoull(argv[1], NULL, 10) << 20 >> 12;
  heap = mmap(NULL, pages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(stride >= 2 && pages >= stride && pages % stride == 0 && heap != MAP_FAILED);
  for (uint64_t page = 0; page < pages; ++page) *word(page) = value(page, 0);
  int written[2];
  CHECK(pipe(written) == 0);
  const pid_t child = fork();
  CHECK(child >= 0);
  const uint64_t first = child == 0 ? 0 : 1;
  CHECK(close(written[child == 0]) == 0);
  write_some(first);
  look(first);
  char none;
  if (child == 0) _exit(read(written[0], &none, 1));  // when the parent has written as well: until then both copy
  CHECK(close(written[1]) == 0);
  int status;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  look(first);
  printf("%llu pages\n", (unsigned long long)pages);
  return 0;
}
