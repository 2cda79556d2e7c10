// What common system calls cost, nanoseconds a call. syscalls [CALLS]
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int null_fd, zero_fd;
static char buffer[65536];

static void none(void) { syscall(SYS_getppid); }
static void get_time(void) { now(); }
static void write_4k(void) { if (write(null_fd, buffer, 4096) != 4096) abort(); }
static void read_64k(void) { if (read(zero_fd, buffer, sizeof buffer) != sizeof buffer) abort(); }
static void mask(void) { sigset_t s; sigprocmask(SIG_BLOCK, NULL, &s); }
static void map_unmap(void) {
  char* p = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED || munmap(p, 65536)) abort();
}
static void map_touch_unmap(void) {
  char* p = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) abort();
  *(volatile char*)p = 1;
  if (munmap(p, 65536)) abort();
}

int main(int argc, char** argv) {
  long calls = argc > 1 ? atol(argv[1]) : 2000;
  null_fd = open("/dev/null", O_WRONLY), zero_fd = open("/dev/zero", O_RDONLY);
  if (null_fd < 0 || zero_fd < 0 || calls <= 0) return 1;
  static const struct { const char* name; void (*call)(void); } list[] = {
      {"getppid", none}, {"clock_gettime", get_time}, {"rt_sigprocmask", mask}, {"write-4K", write_4k},
      {"read-64K", read_64k}, {"mmap+munmap", map_unmap}, {"mmap+touch+munmap", map_touch_unmap}};
  for (size_t i = 0; i < sizeof list / sizeof *list; ++i) {
    list[i].call();
    uint64_t start = now();
    for (long n = 0; n < calls; ++n) list[i].call();
    printf("%s %llu\n", list[i].name, (unsigned long long)((now() - start) / (uint64_t)calls));
  }
  return 0;
}
