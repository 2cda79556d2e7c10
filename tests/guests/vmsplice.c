// vmsplice: pages into a pipe, what a reader finds when the program has let go of them, and out of it.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "check.h"

enum { kPage = 4096 };

static char* pages(size_t count) {
  char* p = mmap(NULL, count * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(p != MAP_FAILED);
  return p;
}
static void full_read(int fd, char* to, size_t bytes) {
  for (size_t done = 0; done < bytes;) {
    ssize_t n = read(fd, to + done, bytes - done);
    CHECK(n > 0);
    done += (size_t)n;
  }
}

static void in_and_out(void) {
  int p[2];
  CHECK(pipe(p) == 0);
  char *memory = pages(8), *copy = pages(8);
  for (int i = 0; i < 8 * kPage; ++i) memory[i] = (char)(i / 7);
  struct iovec iov[3] = {{memory + 10, 100}, {memory + 2 * kPage - 5, kPage}, {memory + 5 * kPage, 2 * kPage}};
  CHECK(vmsplice(p[1], iov, 3, SPLICE_F_GIFT) == 100 + 3 * kPage);
  full_read(p[0], copy, 100 + 3 * kPage);
  CHECK(memcmp(copy, memory + 10, 100) == 0 && memcmp(copy + 100, memory + 2 * kPage - 5, kPage) == 0 &&
        memcmp(copy + 100 + kPage, memory + 5 * kPage, 2 * kPage) == 0);
  // The other end gives copies.
  CHECK(write(p[1], "splice", 6) == 6);
  iov[0] = (struct iovec){copy, 4};
  iov[1] = (struct iovec){copy + kPage, 100};
  CHECK(vmsplice(p[0], iov, 2, 0) == 6 && memcmp(copy, "spli", 4) == 0 && memcmp(copy + kPage, "ce", 2) == 0);
  CHECK_ERRNO(vmsplice(p[0], iov, 1, SPLICE_F_NONBLOCK), EAGAIN);
  puts("in, out");
}

// The pages are gone from the program, and others are where they were, when they are read.
static void unmapped(void) {
  for (int round = 0; round < 50; ++round) {
    int p[2];
    CHECK(pipe(p) == 0);
    char *memory = pages(4), copy[4 * kPage];
    memset(memory, 1 + round, 4 * kPage);
    struct iovec iov = {memory, 4 * kPage};
    CHECK(vmsplice(p[1], &iov, 1, 0) == 4 * kPage && munmap(memory, 4 * kPage) == 0);
    if (round % 2) CHECK(close(p[1]) == 0);
    char* others = pages(64);
    memset(others, 0xee, 64 * kPage);
    full_read(p[0], copy, sizeof copy);
    for (size_t i = 0; i < sizeof copy; ++i) CHECK(copy[i] == (char)(1 + round));
    CHECK(munmap(others, 64 * kPage) == 0 && close(p[0]) == 0);
    if (!(round % 2)) CHECK(close(p[1]) == 0);
  }
  puts("unmapped before they are read");
}

static void* drain(void* arg) {
  static char buffer[1000];
  uint64_t sum = 0;
  for (ssize_t n; (n = read((int)(intptr_t)arg, buffer, sizeof buffer)) > 0;)
    for (ssize_t i = 0; i < n; ++i) sum += (unsigned char)buffer[i];
  return (void*)(uintptr_t)sum;
}

// More than the pipe holds, in pieces, while another thread reads.
static void stream(void) {
  int p[2];
  CHECK(pipe(p) == 0);
  pthread_t reader;
  CHECK(pthread_create(&reader, NULL, drain, (void*)(intptr_t)p[0]) == 0);
  enum { kBytes = 300 * kPage };
  char* memory = pages(300);
  uint64_t sum = 0;
  for (int i = 0; i < kBytes; ++i) sum += (unsigned char)(memory[i] = (char)(i * 31));
  for (size_t done = 0; done < kBytes;) {
    struct iovec iov = {memory + done, kBytes - done};
    ssize_t n = vmsplice(p[1], &iov, 1, 0);
    CHECK(n > 0);
    done += (size_t)n;
  }
  void* got;
  CHECK(close(p[1]) == 0 && pthread_join(reader, &got) == 0 && (uint64_t)(uintptr_t)got == sum);
  puts("streamed");
}

static void refused(void) {
  int p[2], file = open("/dev/null", O_RDWR);
  CHECK(pipe(p) == 0 && file >= 0);
  char* memory = pages(1);
  struct iovec iov = {memory, kPage};
  CHECK_ERRNO(vmsplice(9999, &iov, 1, 0), EBADF);
  CHECK_ERRNO(vmsplice(file, &iov, 1, 0), EBADF);
  CHECK_ERRNO(vmsplice(p[1], &iov, 1, 1 << 20), EINVAL);
  CHECK_ERRNO(vmsplice(p[1], &iov, 1025, 0), EINVAL);
  CHECK_ERRNO(vmsplice(p[1], wild_address, 1, 0), EFAULT);
  CHECK(vmsplice(p[1], &iov, 0, 0) == 0);
  CHECK(munmap(memory, kPage) == 0);
  CHECK_ERRNO(vmsplice(p[1], &iov, 1, 0), EFAULT);
  iov.iov_base = &file;
  iov.iov_len = 4;
  signal(SIGPIPE, SIG_IGN);
  CHECK(close(p[0]) == 0);
  CHECK_ERRNO(vmsplice(p[1], &iov, 1, 0), EPIPE);
  puts("refused");
}

int main(void) {
  in_and_out();
  unmapped();
  stream();
  refused();
  return 0;
}
