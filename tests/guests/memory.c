// mmap, munmap, mprotect, mremap, madvise, mincore, brk: what they answer, and which accesses fault after.
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "check.h"
#include "isa.h"

enum { kPage = 4096 };
static sigjmp_buf back;
static volatile int code;

static void fault(int signal, siginfo_t* info, void* context) {
  (void)context;
  code = info->si_code;
  siglongjmp(back, signal);
}
// SEGV_MAPERR, SEGV_ACCERR or 0: what a load or a store gets.
static int load(volatile char* p) {
  if (sigsetjmp(back, 1)) return code;
  (void)*p;
  return 0;
}
static int store(volatile char* p) {
  if (sigsetjmp(back, 1)) return code;
  *p = 1;
  return 0;
}
static char* anonymous(size_t pages, int prot) {
  char* p = mmap(NULL, pages * kPage, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(p != MAP_FAILED);
  return p;
}
enum { kRW = PROT_READ | PROT_WRITE };

static void map_and_unmap(void) {
  char* p = anonymous(16, kRW);
  for (int i = 0; i < 16; ++i) CHECK(p[i * kPage] == 0);
  memset(p, 0x5a, 16 * kPage);
  CHECK(munmap(p + 4 * kPage, 4 * kPage) == 0);
  CHECK(load(p + 4 * kPage) == SEGV_MAPERR && store(p + 8 * kPage - 1) == SEGV_MAPERR);
  CHECK(load(p + 4 * kPage - 1) == 0 && load(p + 8 * kPage) == 0);
  CHECK(mmap(p + 5 * kPage, kPage, kRW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == p + 5 * kPage);
  CHECK(p[5 * kPage] == 0 && load(p + 6 * kPage) == SEGV_MAPERR);
  CHECK_ERRNO((intptr_t)mmap(p, kPage, kRW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0), EEXIST);
  CHECK(mmap(p, kPage, kRW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p && p[0] == 0 && p[kPage] == 0x5a);
  CHECK_ERRNO((intptr_t)mmap(NULL, 0, kRW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), EINVAL);
  CHECK_ERRNO((intptr_t)mmap(NULL, kPage, kRW, MAP_PRIVATE, 99, 0), EBADF);
  CHECK_ERRNO((intptr_t)mmap(NULL, SIZE_MAX & ~4095ul, kRW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), ENOMEM);
  CHECK_ERRNO(munmap(p + 1, kPage), EINVAL);
  CHECK(munmap(p, 16 * kPage) == 0 && munmap(p, 16 * kPage) == 0);  // a hole may be unmapped again
  puts("mmap, munmap");
}

static void protection(void) {
  char* p = anonymous(8, kRW);
  memset(p, 7, 8 * kPage);
  CHECK(mprotect(p + 2 * kPage, 2 * kPage, PROT_READ) == 0);
  CHECK(store(p + 2 * kPage) == SEGV_ACCERR && store(p + 4 * kPage - 1) == SEGV_ACCERR && load(p + 3 * kPage) == 0);
  CHECK(store(p + 4 * kPage) == 0 && store(p + 2 * kPage - 1) == 0);
  CHECK(mprotect(p + 3 * kPage, kPage, PROT_NONE) == 0);
  CHECK(load(p + 3 * kPage) == SEGV_ACCERR && load(p + 2 * kPage) == 0);
  CHECK(mprotect(p, 8 * kPage, kRW) == 0);
  CHECK(store(p + 3 * kPage) == 0 && p[3 * kPage + 1] == 7 && p[2 * kPage] == 7);
  CHECK(munmap(p + 6 * kPage, kPage) == 0);
  CHECK_ERRNO(mprotect(p + 5 * kPage, 3 * kPage, PROT_READ), ENOMEM);
  CHECK(store(p + 7 * kPage) == 0);  // whether what stands before the hole was changed is nobody's promise
  CHECK_ERRNO(syscall(SYS_mprotect, p + 1, kPage, PROT_READ), EINVAL);  // musl's function would round
  // Executable pages: written first, then run.
  char* text = anonymous(1, kRW);
  unsigned char* code_at = (unsigned char*)text;
  __builtin___clear_cache(text, text + isa_function(42, code_at));
  CHECK(mprotect(text, kPage, PROT_READ | PROT_EXEC) == 0);
  CHECK(((int (*)(void))text)() == 42 && store(text) == SEGV_ACCERR);
  CHECK(mprotect(text, kPage, kRW) == 0);
  __builtin___clear_cache(text, text + isa_function(43, code_at));
  CHECK(mprotect(text, kPage, PROT_READ | PROT_EXEC) == 0 && ((int (*)(void))text)() == 43);
  puts("mprotect");
}

static void remapping(void) {
  char* p = anonymous(4, kRW);
  for (int i = 0; i < 4; ++i) p[i * kPage] = (char)(i + 1);
  CHECK(mremap(p, 4 * kPage, 2 * kPage, 0) == p && load(p + 2 * kPage) == SEGV_MAPERR);
  char* q = mremap(p, 2 * kPage, 64 * kPage, MREMAP_MAYMOVE);
  CHECK(q != MAP_FAILED && q[0] == 1 && q[kPage] == 2 && q[2 * kPage] == 0 && q[63 * kPage] == 0);
  char* target = anonymous(8, kRW);
  target[0] = 99;
  CHECK(mremap(q, kPage, kPage, MREMAP_MAYMOVE | MREMAP_FIXED, target) == target);
  CHECK(target[0] == 1 && load(q) == SEGV_MAPERR && q[kPage] == 2);
  char* kept = mremap(q + kPage, kPage, kPage, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0);
  CHECK(kept != MAP_FAILED && kept[0] == 2 && q[kPage] == 0);  // the old place stays, empty
  char* wall = mmap(target + kPage, kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  CHECK(wall == target + kPage);
  CHECK_ERRNO((intptr_t)mremap(target, kPage, 2 * kPage, 0), ENOMEM);
  CHECK_ERRNO((intptr_t)mremap(q, kPage, kPage, 0), EFAULT);  // nothing is mapped there any more
  CHECK_ERRNO((intptr_t)mremap(target + 1, kPage, kPage, 0), EINVAL);
  // Made smaller over different protections and a hole, as by munmap.
  p = anonymous(6, kRW);
  CHECK(mprotect(p + kPage, kPage, PROT_READ) == 0 && munmap(p + 3 * kPage, kPage) == 0);
  CHECK(mremap(p, 6 * kPage, kPage, 0) == p && store(p) == 0);
  CHECK(load(p + kPage) == SEGV_MAPERR && load(p + 2 * kPage) == SEGV_MAPERR && load(p + 5 * kPage) == SEGV_MAPERR);
  puts("mremap");
}

static void advice(void) {
  char* p = anonymous(1024, kRW);  // 4 MiB
  CHECK(madvise(p, 1024 * kPage, MADV_HUGEPAGE) == 0);
  memset(p, 3, 1024 * kPage);
  CHECK(madvise(p + 5 * kPage, 3 * kPage, MADV_DONTNEED) == 0);
  CHECK(p[5 * kPage - 1] == 3 && p[5 * kPage] == 0 && p[8 * kPage - 1] == 0 && p[8 * kPage] == 3);
  CHECK(madvise(p, 512 * kPage, MADV_NOHUGEPAGE) == 0);
  CHECK(madvise(p, 1024 * kPage, MADV_DONTNEED) == 0);
  for (int i = 0; i < 1024; ++i) CHECK(p[i * kPage] == 0);
  memset(p, 4, 8 * kPage);
  CHECK(madvise(p, 8 * kPage, MADV_FREE) == 0);
  for (int i = 0; i < 8; ++i) CHECK(p[i * kPage] == 4 || p[i * kPage] == 0);
  p[0] = 9;
  CHECK(p[0] == 9);
  CHECK(madvise(p, kPage, MADV_WILLNEED) == 0 && madvise(p, kPage, MADV_RANDOM) == 0);
  CHECK(madvise(p, kPage, MADV_DONTFORK) == 0 && madvise(p, kPage, MADV_DOFORK) == 0);
  CHECK_ERRNO(madvise(p + 1, kPage, MADV_DONTNEED), EINVAL);
  CHECK_ERRNO(madvise(p, kPage, 4711), EINVAL);
  CHECK_ERRNO(madvise(p, SIZE_MAX, MADV_NORMAL), EINVAL);
  CHECK_ERRNO(madvise(p, (size_t)1 << 62, MADV_NORMAL), ENOMEM);
  CHECK(munmap(p + kPage, kPage) == 0);
  memset(p + 2 * kPage, 5, kPage);
  CHECK_ERRNO(madvise(p, 3 * kPage, MADV_RANDOM), ENOMEM);
  CHECK_ERRNO(madvise(p, 3 * kPage, MADV_DONTNEED), ENOMEM);
  CHECK(p[0] == 0 && p[2 * kPage] == 0);  // what there is was advised
  CHECK_ERRNO(madvise(p + kPage, kPage, MADV_NORMAL), ENOMEM);
  CHECK_ERRNO(madvise(p + kPage, kPage, MADV_DONTDUMP), ENOMEM);
  puts("madvise");
}

static void residency(void) {
  unsigned char bits[8] = {0};
  char* p = anonymous(8, kRW);
  memset(p, 1, 8 * kPage);
  CHECK(mincore(p, 8 * kPage, bits) == 0);
  for (int i = 0; i < 8; ++i) CHECK(bits[i] & 1);
  CHECK(munmap(p + kPage, kPage) == 0);
  CHECK_ERRNO(mincore(p, 8 * kPage, bits), ENOMEM);
  CHECK_ERRNO(mincore(p + 1, kPage, bits), EINVAL);
  CHECK(mlock(p, kPage) == 0 && munlock(p, kPage) == 0);
  puts("mincore, mlock");
}

static void reservations(void) {
  size_t size = (size_t)64 << 30;
  char* p = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(p != MAP_FAILED && load(p) == SEGV_ACCERR && load(p + size - 1) == SEGV_ACCERR);
  CHECK(mprotect(p + size / 2, 4 * kPage, kRW) == 0);
  CHECK(store(p + size / 2) == 0 && store(p + size / 2 - 1) == SEGV_ACCERR && store(p + size / 2 + 4 * kPage) == SEGV_ACCERR);
  CHECK(munmap(p, size) == 0 && load(p + size / 2) == SEGV_MAPERR);
  puts("a reservation of 64 GiB");
}

// RLIMIT_AS and RLIMIT_DATA: ulimit -v and -d of shells.
static void limits(void) {
  struct rlimit none, some;
  const size_t mib = 1 << 20;
  char* p = anonymous(8, kRW);
  CHECK(getrlimit(RLIMIT_AS, &none) == 0);
  some = none;
  some.rlim_cur = 1024 * mib;
  CHECK(setrlimit(RLIMIT_AS, &some) == 0);
  CHECK_ERRNO((intptr_t)mmap(NULL, 2048 * mib, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0), ENOMEM);
  CHECK_ERRNO((intptr_t)mremap(p, 8 * kPage, 2048 * mib, MREMAP_MAYMOVE), ENOMEM);
  CHECK_ERRNO((intptr_t)sbrk(2000 * (intptr_t)mib), ENOMEM);
  char* half = mmap(NULL, 700 * mib, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(half != MAP_FAILED);
  // What is replaced does not count.
  CHECK(mmap(half, 700 * mib, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == half);
  CHECK(munmap(half, 700 * mib) == 0 && setrlimit(RLIMIT_AS, &none) == 0);
  CHECK(getrlimit(RLIMIT_DATA, &none) == 0);
  some = none;
  some.rlim_cur = 64 * mib;
  CHECK(setrlimit(RLIMIT_DATA, &some) == 0);
  CHECK_ERRNO((intptr_t)mmap(NULL, 100 * mib, kRW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), ENOMEM);
  half = mmap(NULL, 100 * mib, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(half != MAP_FAILED && munmap(half, 100 * mib) == 0 && setrlimit(RLIMIT_DATA, &none) == 0);
  CHECK(munmap(p, 8 * kPage) == 0);
  puts("limits");
}

static void program_break(void) {
  // The call itself: musl's functions do not serve programs.
  long start = syscall(SYS_brk, 0), page = (start + kPage - 1) & ~(long)(kPage - 1), end = page + 3 * kPage;
  CHECK(start > 0 && syscall(SYS_brk, end) == end);
  ((char*)end)[-1] = 5;
  CHECK(syscall(SYS_brk, page) == page && load((char*)page) == SEGV_MAPERR);
  CHECK(syscall(SYS_brk, end) == end && ((char*)end)[-1] == 0);  // given back, so zero again
  CHECK(syscall(SYS_brk, 1) == end);                              // refused: answers what is
  CHECK(syscall(SYS_brk, start) == start);
  puts("brk");
}

static int depth_reached;
#pragma GCC diagnostic ignored "-Winfinite-recursion"
static int descend(int depth) {
  volatile char block[kPage * 4];
  block[0] = (char)depth;
  block[sizeof block - 1] = 1;
  depth_reached = depth;
  return depth == 300 ? 0 : descend(depth + 1) + block[0];
}

int main(void) {
  stack_t stack = {.ss_sp = malloc(65536), .ss_size = 65536};
  CHECK(sigaltstack(&stack, NULL) == 0);
  struct sigaction action = {.sa_sigaction = fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
  CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
  map_and_unmap();
  protection();
  remapping();
  advice();
  residency();
  reservations();
  limits();
  program_break();
  descend(0);
  printf("a stack of %d KiB\n", depth_reached * 16);
  return 0;
}
