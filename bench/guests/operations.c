// What a program asks of its kernel, nanoseconds each: operations [SCALE]. Every line is the median of several batches.
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { kPage = 4096, kBatches = 5 };

static void must(int holds, const char* what) {
  if (holds) return;
  perror(what);
  exit(1);
}

static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int ascending(const void* a, const void* b) {
  const uint64_t x = *(const uint64_t*)a, y = *(const uint64_t*)b;
  return x < y ? -1 : x > y;
}

static char* pages(size_t bytes) {
  char* p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  must(p != MAP_FAILED, "mmap");
  return p;
}

// --- one operation of each kind ---

static char* page;  // of the main thread
static void null_call(void) { syscall(SYS_getppid); }
static void read_clock(void) { now(); }
static void flip(char* p) {
  must(mprotect(p, kPage, PROT_READ) == 0 && mprotect(p, kPage, PROT_READ | PROT_WRITE) == 0, "mprotect");
  *(volatile char*)p = 1;
}
static void flip_own(void) { flip(page); }

static void make_writable(int sig, siginfo_t* info, void* context) {
  (void)sig, (void)context;
  mprotect((void*)((uintptr_t)info->si_addr & -(uintptr_t)kPage), kPage, PROT_READ | PROT_WRITE);
}
static void write_to_read_only(void) {
  must(mprotect(page, kPage, PROT_READ) == 0, "mprotect");
  *(volatile char*)page = 1;
}

static void map_touch_unmap(void) {
  char* p = pages(16 * kPage);
  *(volatile char*)p = 1;
  must(munmap(p, 16 * kPage) == 0, "munmap");
}

static void* nothing(void* p) { return p; }
static void create_and_join(void) {
  pthread_t t;
  must(pthread_create(&t, NULL, nothing, NULL) == 0 && pthread_join(t, NULL) == 0, "pthread_create");
}

static int there[2], back[2];
static void pipe_round(void) {
  char c = 1;
  must(write(there[1], &c, 1) == 1 && read(back[0], &c, 1) == 1, "pipe");
}

static _Atomic uint32_t turn;
static void await(uint32_t value) {
  uint32_t seen;
  while ((seen = turn) != value) syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}
static void pass(uint32_t value) {
  turn = value;
  syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}
static void futex_round(void) {
  pass(1);
  await(0);
}
static void* other_side(void* unused) {
  for (;;) {
    while (turn == 0) syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
    if (turn == 2) return unused;
    pass(0);
  }
}

static const char* file;
static void open_read_close(void) {
  char c;
  const int fd = open(file, O_RDONLY);
  must(fd >= 0 && read(fd, &c, 1) == 1 && close(fd) == 0, file);
}

static void fork_and_exit(void) {
  const pid_t pid = fork();
  if (pid == 0) _exit(0);
  int status;
  must(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0, "fork");
}

// --- measuring ---

static void measure(const char* name, void (*operation)(void), long times) {
  uint64_t batches[kBatches];
  if (times < 1) times = 1;
  operation();
  for (int b = 0; b < kBatches; ++b) {
    const uint64_t begin = now();
    for (long i = 0; i < times; ++i) operation();
    batches[b] = (now() - begin) / (uint64_t)times;
  }
  qsort(batches, kBatches, sizeof *batches, ascending);
  printf("%s %llu\n", name, (unsigned long long)batches[kBatches / 2]);
  fflush(stdout);
}

static _Atomic int stop;
static void* flip_until_stopped(void* unused) {
  char* p = pages(kPage);
  while (!stop) flip(p);
  return unused;
}

int main(int argc, char** argv) {
  const double scale = argc > 1 ? atof(argv[1]) : 1;
  file = argv[0];
  page = pages(kPage);
  measure("null_call", null_call, (long)(5000 * scale));
  measure("clock_gettime", read_clock, (long)(100000 * scale));
  measure("open_read_close", open_read_close, (long)(1000 * scale));
  measure("mprotect_flip", flip_own, (long)(1000 * scale));
  pthread_t thread;
  must(pthread_create(&thread, NULL, flip_until_stopped, NULL) == 0, "pthread_create");
  measure("mprotect_flip_two_threads", flip_own, (long)(1000 * scale));
  stop = 1;
  pthread_join(thread, NULL);
  struct sigaction action = {.sa_sigaction = make_writable, .sa_flags = SA_SIGINFO};
  must(sigaction(SIGSEGV, &action, NULL) == 0, "sigaction");
  measure("fault_handler_mprotect", write_to_read_only, (long)(500 * scale));
  measure("map_touch_unmap", map_touch_unmap, (long)(500 * scale));
  measure("thread", create_and_join, (long)(200 * scale));
  must(pthread_create(&thread, NULL, other_side, NULL) == 0, "pthread_create");
  measure("futex_round", futex_round, (long)(1000 * scale));
  pass(2);
  pthread_join(thread, NULL);

  must(pipe(there) == 0 && pipe(back) == 0, "pipe");
  const pid_t pid = fork();
  must(pid >= 0, "fork");
  if (pid == 0) {
    close(there[1]);
    char c;
    while (read(there[0], &c, 1) == 1) must(write(back[1], &c, 1) == 1, "pipe");
    _exit(0);
  }
  measure("pipe_round", pipe_round, (long)(1000 * scale));
  close(there[1]);
  int status;
  must(waitpid(pid, &status, 0) == pid && status == 0, "waitpid");

  measure("fork_exit_small", fork_and_exit, (long)(50 * scale));
  char* much = pages(16 << 20);
  memset(much, 1, 16 << 20);
  measure("fork_exit_16MiB", fork_and_exit, (long)(50 * scale));
  return 0;
}
