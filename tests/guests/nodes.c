// Memory of two nodes: where pages are, come from and go to, while threads write and execute them.
//   nodes [ROUNDS]
#define _GNU_SOURCE
#include <errno.h>
#include <linux/mempolicy.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "isa.h"

enum { PAGE = 4096, PAGES = 64 };

static unsigned char *map(int pages, int prot) {
  unsigned char *at = mmap(NULL, (size_t)pages * PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(at != MAP_FAILED);
  return at;
}
static long move(int count, void **pages, const int *nodes, int *status) {
  return syscall(SYS_move_pages, 0, (long)count, pages, nodes, status, MPOL_MF_MOVE);
}
static int node_of(void *page) {
  int status = -1;
  CHECK(move(1, &page, NULL, &status) == 0);
  return status;
}
static void move_all(unsigned char *at, int pages, int node) {
  void *addresses[PAGES];
  int nodes[PAGES], status[PAGES];
  for (int i = 0; i < pages; i++) addresses[i] = at + i * PAGE, nodes[i] = node;
  CHECK(move(pages, addresses, nodes, status) == 0);
  for (int i = 0; i < pages; i++) CHECK(status[i] == node);
}

static void pages_move(void) {
  unsigned char *at = map(PAGES, PROT_READ | PROT_WRITE);
  CHECK(node_of(at) == -ENOENT);
  CHECK(node_of((void *)0x10000) == -EFAULT);
  for (int i = 0; i < PAGES; i++) at[i * PAGE] = (unsigned char)(i + 1);
  for (int node = 0; node < 4; node++) {
    move_all(at, PAGES, node % 2);
    for (int i = 0; i < PAGES; i++) CHECK(node_of(at + i * PAGE) == node % 2 && at[i * PAGE] == i + 1);
  }
  void *page = at;
  int wrong = 2, status;
  CHECK(move(1, &page, &wrong, &status) == -1 && errno == ENODEV);
  CHECK(syscall(SYS_move_pages, 0, 1L, &page, &wrong, &status, 1 << 10) == -1 && errno == EINVAL);
  CHECK(syscall(SYS_move_pages, 0, 1L, (void *)1, &wrong, &status, 0) == -1 && errno == EFAULT);
  CHECK(syscall(SYS_move_pages, 99999, 1L, &page, NULL, &status, 0) == -1 && errno == ESRCH);
  // Shared with a child, until it is written.
  const pid_t child = fork();
  if (child == 0) pause();
  int to = 1 - node_of(at);
  CHECK(move(1, &page, &to, &status) == 1 && status == -EACCES);
  at[0] = 1;
  CHECK(move(1, &page, &to, &status) == 0 && status == to);
  CHECK(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
  CHECK(munmap(at, PAGES * PAGE) == 0);
  puts("pages: ok");
}

static void ranges_are_bound(void) {
  unsigned char *at = map(PAGES, PROT_READ | PROT_WRITE);
  for (unsigned long node = 0; node < 2; node++) {
    unsigned long mask = 1ul << node, told = 0;
    int mode = -1;
    CHECK(syscall(SYS_mbind, at, PAGES * PAGE, MPOL_BIND, &mask, 8, MPOL_MF_MOVE | MPOL_MF_STRICT) == 0);
    for (int i = 0; i < PAGES; i++) at[i * PAGE] = 1;
    for (int i = 0; i < PAGES; i++) {
      CHECK(syscall(SYS_get_mempolicy, &mode, NULL, 0, at + i * PAGE, MPOL_F_NODE | MPOL_F_ADDR) == 0 && mode == (int)node);
    }
    CHECK(syscall(SYS_get_mempolicy, &mode, &told, 64, at, MPOL_F_ADDR) == 0 && mode == MPOL_BIND && told == mask);
  }
  unsigned long both = 0, beyond = 4;
  CHECK(syscall(SYS_get_mempolicy, NULL, &both, 64, NULL, MPOL_F_MEMS_ALLOWED) == 0 && both == 3);
  CHECK(syscall(SYS_mbind, at, PAGE, MPOL_BIND, &beyond, 8, 0) == -1 && errno == EINVAL);
  CHECK(syscall(SYS_mbind, at + 1, PAGE, MPOL_DEFAULT, NULL, 0, 0) == -1 && errno == EINVAL);
  CHECK(syscall(SYS_mbind, (void *)0x10000, PAGE, MPOL_DEFAULT, NULL, 0, 0) == -1 && errno == EFAULT);
  CHECK(syscall(SYS_mbind, at, PAGES * PAGE, MPOL_DEFAULT, NULL, 0, 0) == 0);
  unsigned long from = 2, to = 1;
  CHECK(syscall(SYS_migrate_pages, 0, 8, &from, &to) >= 0);
  for (int i = 0; i < PAGES; i++) CHECK(node_of(at + i * PAGE) == 0);
  CHECK(munmap(at, PAGES * PAGE) == 0);
  puts("ranges: ok");
}

static unsigned char *counters, *code;
static atomic_int stop;
static _Atomic long rounds;

static void *work(void *number) {
  const int me = (int)(intptr_t)number;
  typedef int (*function)(void);
  for (uint32_t n = 1; !stop; n++)
    for (int i = 0; i < PAGES; i++) {
      volatile uint32_t *word = (volatile uint32_t *)(counters + i * PAGE) + me;
      CHECK(*word == n - 1);
      *word = n;
      function f = (function)(uintptr_t)(code + i * PAGE);
      CHECK(f() == i + 1000);
      rounds++;
    }
  return NULL;
}

static void threads_notice_nothing(int least) {
  counters = map(PAGES, PROT_READ | PROT_WRITE);
  code = map(PAGES, PROT_READ | PROT_WRITE);
  for (int i = 0; i < PAGES; i++) isa_function((uint16_t)(i + 1000), code + i * PAGE);
  __builtin___clear_cache((char *)code, (char *)code + PAGES * PAGE);
  CHECK(mprotect(code, PAGES * PAGE, PROT_READ | PROT_EXEC) == 0);
  pthread_t threads[2];
  for (int i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, work, (void *)(intptr_t)i) == 0);
  for (int n = 0; n < least || rounds < 4 * PAGES; n++) {
    memset(counters + (n % PAGES) * PAGE + 64, n, 64);
    move_all(counters, PAGES, n % 2);
    move_all(code, PAGES, 1 - n % 2);
  }
  stop = 1;
  for (int i = 0; i < 2; i++) CHECK(pthread_join(threads[i], NULL) == 0);
  puts("threads: ok");
}

int main(int argc, char **argv) {
  pages_move();
  ranges_are_bound();
  threads_notice_nothing(argc > 1 ? atoi(argv[1]) : 50);
  return 0;
}
