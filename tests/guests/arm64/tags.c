// The top byte of an address says nothing of where it is, neither to the processor nor in system calls.
#define _GNU_SOURCE
#include "check.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static void* tagged(void* at, unsigned tag) { return (void*)((uintptr_t)at | (uintptr_t)tag << 56); }

int main(void) {
  CHECK(prctl(PR_SET_TAGGED_ADDR_CTRL, PR_TAGGED_ADDR_ENABLE, 0, 0, 0) == 0);
  CHECK(prctl(PR_GET_TAGGED_ADDR_CTRL, 0, 0, 0, 0) == PR_TAGGED_ADDR_ENABLE);
  CHECK_ERRNO(prctl(PR_SET_TAGGED_ADDR_CTRL, 0x1000, 0, 0, 0), EINVAL);
  char* page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(page != MAP_FAILED);
  // First touches, aligned and across pages; atomics; both kinds of exclusives.
  for (unsigned tag = 1; tag < 256; tag += 37) {
    volatile char* at = tagged(page, tag);
    at[tag] = (char)tag;
    CHECK(page[tag] == (char)tag);
    volatile uint64_t* across = tagged(page + 4092, tag);
    *across = tag * 0x0101010101010101u;
    CHECK(*(volatile uint64_t*)(page + 4092) == tag * 0x0101010101010101u);
    uint32_t* word = tagged(page + 64, tag);
    *(uint32_t*)(page + 64) = 5;
    CHECK(__atomic_fetch_add(word, 2, __ATOMIC_SEQ_CST) == 5 && __atomic_load_n(word, __ATOMIC_ACQUIRE) == 7);
  }
  // System calls: buffers, strings, vectors, futexes, and calls about memory.
  int ends[2];
  CHECK(pipe(tagged(ends, 0x7f)) == 0);
  CHECK(write(ends[1], tagged("tagged", 1), 6) == 6 && read(ends[0], tagged(page, 2), 6) == 6 && memcmp(page, "tagged", 6) == 0);
  struct iovec vector = {tagged(page, 3), 6};
  CHECK(writev(ends[1], tagged(&vector, 4), 1) == 6 && readv(ends[0], tagged(&vector, 5), 1) == 6);
  const int fd = open(tagged("/proc/self/exe", 6), O_RDONLY);
  CHECK(fd >= 0 && pread(fd, tagged(page + 4096, 7), 4, 0) == 4 && memcmp(page + 4096, "\177ELF", 4) == 0);
  uint32_t* word = (uint32_t*)(page + 64);
  *word = 1;
  CHECK_ERRNO(syscall(SYS_futex, tagged(word, 8), FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 2, NULL, NULL, 0), EAGAIN);
  CHECK(syscall(SYS_futex, tagged(word, 9), FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, NULL, NULL, 0) == 0);
  CHECK(mprotect(tagged(page, 10), 4096, PROT_READ) == 0);
  CHECK_ERRNO(read(fd, tagged(page, 11), 4), EFAULT);
  CHECK(madvise(tagged(page + 4096, 12), 4096, MADV_DONTNEED) == 0 && page[4096] == 0);
  CHECK(munmap(tagged(page, 13), 8192) == 0);
  CHECK_ERRNO(read(fd, page, 4), EFAULT);
  puts("tags do not count");
  return 0;
}
