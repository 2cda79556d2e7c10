// The kernel's own device for tests of pinning, /sys/kernel/debug/gup_test, as the self-tests of memory management use
// it. Where the host has none, or does not let us: prints what it would have, so that a native run compares.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"

struct sweep {
  uint64_t get_usec, put_usec, address, bytes;
  uint32_t pages_per_call, gup_flags, test_flags, which_pages[8];
};
struct range {
  uint64_t address, bytes;
  uint32_t flags;
};
enum { kPage = 4096, kPages = 64, kWrite = 1, kFast = 2 };
#define SWEEP(number) _IOWR('g', number, struct sweep)
#define START _IOW('g', 7, struct range)
#define STOP _IO('g', 8)
#define READ _IOW('g', 9, uint64_t)

static char* pages(int prot) {
  char* p = mmap(NULL, kPages * kPage, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(p != MAP_FAILED);
  return p;
}

static int start(int fd, const void* at, uint64_t bytes, uint32_t flags) {
  struct range range = {(uintptr_t)at, bytes, flags};
  return ioctl(fd, START, &range);
}
static int read_back(int fd, void* to) {
  uint64_t address = (uintptr_t)to;
  return ioctl(fd, READ, &address);
}

static void long_term(int fd) {
  char *memory = pages(PROT_READ | PROT_WRITE), *copy = pages(PROT_READ | PROT_WRITE);
  const uint64_t all = (uint64_t)kPages * kPage;
  CHECK_ERRNO(read_back(fd, copy), EINVAL);
  CHECK(ioctl(fd, STOP) == 0);
  CHECK_ERRNO(start(fd, memory + 1, kPage, 0), EINVAL);
  CHECK_ERRNO(start(fd, memory, 100, 0), EINVAL);
  CHECK_ERRNO(start(fd, memory, 0, 0), EINVAL);
  CHECK_ERRNO(start(fd, memory, kPage, 4), EINVAL);
  CHECK_ERRNO(ioctl(fd, START, wild_address), EFAULT);
  for (uint32_t flags = 0; flags <= (kWrite | kFast); ++flags) {
    for (int i = 0; i < kPages; ++i) memset(memory + i * kPage, i + (int)flags, kPage);
    CHECK(start(fd, memory, all, flags) == 0);
    CHECK_ERRNO(start(fd, memory, all, flags), EINVAL);
    CHECK(read_back(fd, copy) == 0 && memcmp(memory, copy, all) == 0);
    // The pin sees what the program writes from now on, whatever it does to its map meanwhile.
    CHECK(mprotect(memory, all, PROT_READ) == 0 && mprotect(memory, all, PROT_READ | PROT_WRITE) == 0);
    for (int i = 0; i < kPages; ++i) memory[i * kPage + 7] = (char)(i * 3);
    CHECK(read_back(fd, copy) == 0 && memcmp(memory, copy, all) == 0);
    CHECK_ERRNO(read_back(fd, wild_address), EFAULT);
    CHECK_ERRNO(ioctl(fd, READ, wild_address), EFAULT);
    CHECK(ioctl(fd, STOP) == 0);
    CHECK_ERRNO(read_back(fd, copy), EINVAL);
  }
  // What is pinned stays as it was when the program has let go of it.
  memset(memory, 5, all);
  CHECK(start(fd, memory, all, kWrite) == 0 && munmap(memory, all) == 0);
  char* other = pages(PROT_READ | PROT_WRITE);
  memset(other, 6, all);
  CHECK(read_back(fd, copy) == 0);
  for (uint64_t i = 0; i < all; ++i) CHECK(copy[i] == 5);
  CHECK(ioctl(fd, STOP) == 0);
  // What cannot be pinned.
  CHECK_ERRNO(start(fd, (void*)(uintptr_t)0x10000, kPage, 0), EFAULT);
  char* constant = pages(PROT_READ);
  CHECK_ERRNO(start(fd, constant, kPage, kWrite), EFAULT);
  CHECK(start(fd, constant, all, 0) == 0 && read_back(fd, copy) == 0 && copy[100] == 0 && ioctl(fd, STOP) == 0);
  CHECK(munmap(constant + kPage, kPage) == 0);
  CHECK_ERRNO(start(fd, constant, all, 0), EFAULT);
  CHECK_ERRNO(read_back(fd, copy), EINVAL);
}

static void sweeps(int fd) {
  char* memory = pages(PROT_READ | PROT_WRITE);
  for (unsigned number = 1; number <= 6; ++number)
    for (uint32_t at_once = 1; at_once <= kPages; at_once *= 8) {
      struct sweep s = {.address = (uintptr_t)memory, .bytes = kPages * kPage, .pages_per_call = at_once,
                        .gup_flags = 1, .which_pages = {1, 65, 3}};
      CHECK(ioctl(fd, SWEEP(number), &s) == 0 && s.bytes == kPages * kPage && s.address == (uintptr_t)memory);
      CHECK(s.which_pages[0] == 1 && s.which_pages[1] == (number == 6 ? 0 : 65));
    }
  struct sweep s = {.address = UINT64_MAX - 10, .bytes = kPage, .pages_per_call = 1};
  CHECK_ERRNO(ioctl(fd, SWEEP(1), &s), EINVAL);
  CHECK_ERRNO(ioctl(fd, SWEEP(1), wild_address), EFAULT);
  CHECK_ERRNO(ioctl(fd, _IO('g', 77)), EINVAL);
  CHECK(memory[0] == 0);
}

int main(void) {
  int fd = open("/sys/kernel/debug/gup_test", O_RDWR);
  if (fd >= 0) {
    char byte;
    CHECK_ERRNO(read(fd, &byte, 1), EINVAL);
    long_term(fd);
    sweeps(fd);
    // Closed with a pin, and ended with one.
    char* memory = pages(PROT_READ | PROT_WRITE);
    CHECK(start(fd, memory, kPage, kWrite) == 0 && close(fd) == 0);
    fd = open("/sys/kernel/debug/gup_test", O_RDWR);
    CHECK(fd >= 0 && start(fd, memory, kPage, 0) == 0);
  }
  puts("long-term pins, sweeps");
  return 0;
}
