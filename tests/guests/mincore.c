// mincore(2): which pages are in memory. Of anonymous memory those that were touched, whatever a fault maps besides; of
// files and shared memory those that anybody has read or written.
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

enum { kPage = 4096, kPages = 64, kMost = 1 << 20 };

// Whether pages [from, to) of the memory are all in memory (1), or none is (0); -1: some.
static int there(const char* p, int from, int to) {
  static unsigned char v[kMost / kPage];
  CHECK(to - from <= (int)sizeof v);
  CHECK(mincore((void*)(p + from * kPage), (size_t)(to - from) * kPage, v) == 0);
  int pages = 0;
  for (int i = 0; i < to - from; ++i) pages += v[i] & 1;
  return pages == to - from ? 1 : pages == 0 ? 0 : -1;
}

// Without huge pages, of which Linux says that all is there.
static char* memory(size_t pages, int flags) {
  char* p = mmap(NULL, pages * kPage, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
  CHECK(p != MAP_FAILED);
  if (flags & MAP_PRIVATE) CHECK(madvise(p, pages * kPage, MADV_NOHUGEPAGE) == 0);
  return p;
}

static void anonymous(void) {
  char* p = memory(kPages, MAP_PRIVATE);
  CHECK(there(p, 0, kPages) == 0);
  p[kPage] = 1;
  CHECK(there(p, 0, 1) == 0 && there(p, 1, 2) == 1 && there(p, 2, kPages) == 0);
  // Pages around that are mapped by now, and are written with and without a fault.
  p[2 * kPage] = 2, p[20 * kPage] = 3, p[63 * kPage + 4095] = 4;
  CHECK(there(p, 2, 3) == 1 && there(p, 20, 21) == 1 && there(p, 63, 64) == 1);
  CHECK(there(p, 0, 1) == 0 && there(p, 3, 20) == 0 && there(p, 21, 63) == 0);
  // A page that is only read, far from the others.
  char* q = memory(kPages, MAP_PRIVATE);
  CHECK(*(volatile char*)(q + 32 * kPage) == 0);
  CHECK(there(q, 32, 33) == 1 && there(q, 0, 32) == 0 && there(q, 33, kPages) == 0);
  // In order, as programs go through memory.
  char* r = memory(kPages, MAP_PRIVATE);
  for (int i = 0; i < 40; ++i) {
    r[i * kPage] = 1;
    CHECK(there(r, 0, i + 1) == 1 && there(r, i + 1, kPages) == 0);
  }
  // Other permissions change nothing.
  CHECK(mprotect(p, kPages * kPage, PROT_READ) == 0 && there(p, 1, 3) == 1 && there(p, 3, 20) == 0);
  CHECK(mprotect(p, kPages * kPage, PROT_NONE) == 0 && there(p, 1, 3) == 1 && there(p, 3, 20) == 0);
  CHECK(mprotect(p, kPages * kPage, PROT_READ | PROT_WRITE) == 0 && there(p, 1, 3) == 1 && there(p, 3, 20) == 0);
  // Memory that is given back, and moved.
  CHECK(madvise(r, 20 * kPage, MADV_DONTNEED) == 0 && there(r, 0, 20) == 0 && there(r, 20, 40) == 1);
  r[5 * kPage] = 1;
  CHECK(there(r, 0, 5) == 0 && there(r, 5, 6) == 1 && there(r, 6, 20) == 0 && there(r, 20, 40) == 1);
  char* m = mremap(p, kPages * kPage, 2 * kPages * kPage, MREMAP_MAYMOVE);
  CHECK(m != MAP_FAILED && there(m, 1, 3) == 1 && there(m, 3, 20) == 0 && there(m, kPages, 2 * kPages) == 0);
  // What the kernel writes for the program.
  int ends[2];
  CHECK(pipe(ends) == 0 && write(ends[1], "x", 1) == 1 && read(ends[0], m + 50 * kPage, 1) == 1 && there(m, 50, 51) == 1);
  // All at once.
  char* all = mmap(NULL, kPages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  CHECK(all != MAP_FAILED && there(all, 0, kPages) == 1);
  CHECK(close(ends[0]) == 0 && close(ends[1]) == 0 && munmap(all, kPages * kPage) == 0);
  CHECK(munmap(q, kPages * kPage) == 0 && munmap(r, kPages * kPage) == 0 && munmap(m, 2 * kPages * kPage) == 0);
  puts("anonymous");
}

// Memory that was used for something else before.
static void used_again(void) {
  for (int round = 0; round < 3; ++round) {
    char* p = memory(kPages, MAP_PRIVATE);
    CHECK(there(p, 0, kPages) == 0);
    memset(p + 8 * kPage, 0xff, 16 * kPage);
    CHECK(there(p, 0, 8) == 0 && there(p, 8, 24) == 1 && there(p, 24, kPages) == 0);
    CHECK(munmap(p, kPages * kPage) == 0);
  }
  puts("used again");
}

static void child(void (*body)(char*), char* p) {
  int status;
  fflush(stdout);
  const pid_t pid = fork();
  if (pid == 0) {
    body(p);
    _exit(0);
  }
  CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
}

static void inherits(char* p) {
  CHECK(there(p, 0, 4) == 0 && there(p, 4, 8) == 1 && there(p, 8, kPages) == 0);
  p[6 * kPage] = 2, p[30 * kPage] = 2;
  CHECK(there(p, 0, 4) == 0 && there(p, 4, 8) == 1 && there(p, 8, 30) == 0 && there(p, 30, 31) == 1 && there(p, 31, kPages) == 0);
}
static void populates(char* p) {
  CHECK(madvise(p, kPages * kPage, MADV_POPULATE_READ) == 0 && there(p, 0, kPages) == 1);
}
static void writes(char* p) { p[9 * kPage] = 1; }

static void forks(void) {
  char* p = memory(kPages, MAP_PRIVATE);
  memset(p + 4 * kPage, 1, 4 * kPage);
  child(inherits, p);
  child(populates, p);
  CHECK(there(p, 0, 4) == 0 && there(p, 4, 8) == 1 && there(p, 8, kPages) == 0);
  p[5 * kPage] = 3, p[40 * kPage] = 3;
  CHECK(there(p, 4, 8) == 1 && there(p, 8, 40) == 0 && there(p, 40, 41) == 1);
  CHECK(munmap(p, kPages * kPage) == 0);
  // Shared memory is there for all, once one has touched it.
  char* s = memory(kPages, MAP_SHARED);
  CHECK(there(s, 0, kPages) == 0);
  child(writes, s);
  CHECK(there(s, 0, 9) == 0 && there(s, 9, 10) == 1 && there(s, 10, kPages) == 0);
  CHECK(munmap(s, kPages * kPage) == 0);
  puts("forks");
}

static void files(const char* directory) {
  char path[4096], page[kPage];
  snprintf(path, sizeof path, "%s/mincore", directory);
  const int f = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
  CHECK(f >= 0);
  memset(page, 1, sizeof page);
  for (int i = 0; i < 8; ++i) CHECK(write(f, page, sizeof page) == sizeof page);
  // It was just written. What lies beyond its end is not there.
  char* p = mmap(NULL, 12 * kPage, PROT_READ, MAP_PRIVATE, f, 0);
  char* s = mmap(NULL, 12 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
  CHECK(p != MAP_FAILED && s != MAP_FAILED);
  CHECK(there(p, 0, 8) == 1 && there(p, 8, 12) == 0);
  CHECK(there(s, 0, 8) == 1 && there(s, 8, 12) == 0);
  CHECK(munmap(p, 12 * kPage) == 0 && munmap(s, 12 * kPage) == 0 && close(f) == 0 && unlink(path) == 0);
  const int m = memfd_create("m", 0);
  CHECK(m >= 0 && ftruncate(m, kPages * kPage) == 0 && pwrite(m, "x", 1, 10 * kPage) == 1);
  char* q = mmap(NULL, kPages * kPage, PROT_READ, MAP_SHARED, m, 0);
  CHECK(q != MAP_FAILED && there(q, 0, 10) == 0 && there(q, 10, 11) == 1 && there(q, 11, kPages) == 0);
  CHECK(munmap(q, kPages * kPage) == 0 && close(m) == 0);
  puts("files");
}

static void errors(void) {
  unsigned char v[8];
  char* p = memory(4, MAP_PRIVATE);
  CHECK_ERRNO(mincore(p + 1, kPage, v), EINVAL);
  CHECK_ERRNO(mincore(p, kPage, wild_address), EFAULT);
  CHECK(mincore(p, 0, v) == 0 && mincore(p, 1, v) == 0);
  CHECK(munmap(p + 2 * kPage, kPage) == 0);
  CHECK_ERRNO(mincore(p, 4 * kPage, v), ENOMEM);
  puts("errors");
}

int main(int argc, char** argv) {
  CHECK(argc == 2);
  anonymous();
  used_again();
  forks();
  files(argv[1]);
  errors();
  return 0;
}
