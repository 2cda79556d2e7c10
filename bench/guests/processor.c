// What a processor does: loops, memory, calls, floating point, system calls, and memory after fork(2).
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { kMiB = 1 << 20, kWords = 64 * kMiB / 8, kReads = 5000000, kSieve = kMiB };

static volatile uint64_t sink;
static uint64_t* memory;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}
static void say(const char* name, double begin, double operations) { printf("%s %.3f\n", name, (now() - begin) / operations); }

static void integers(void) {
  uint64_t a = 1;
  for (long i = 0; i < 50000000; ++i) {
    a = a * 6364136223846793005ull + 1442695040888963407ull;
    a ^= a >> 13;
  }
  sink = a;
}
static void sieve(void) {
  static char composite[kSieve];
  memset(composite, 0, sizeof composite);
  for (int i = 2; i * i < kSieve; ++i)
    if (!composite[i])
      for (int j = i * i; j < kSieve; j += i) composite[j] = 1;
  sink = (uint64_t)composite[kSieve - 1];
}
static void random_reads(void) {
  uint64_t x = 88172645463325252ull, sum = 0;
  for (int i = 0; i < kReads; ++i) {
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    sum += memory[x % kWords];
  }
  sink = sum;
}
static int fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }
static int plus(int x) { return x + 1; }
static int other(int x) { return x ^ 3; }
static int (*volatile functions[2])(int) = {plus, other};
static void indirect_calls(void) {
  int x = 0;
  for (int i = 0; i < 10000000; ++i) x = functions[i & 1](x);
  sink = (uint64_t)x;
}
static void doubles(void) {
  double d = 1;
  for (int i = 0; i < 10000000; ++i) {
    d = d * 1.0000001 + 0.5;
    if (d > 1e9) d = 1;
  }
  sink = (uint64_t)d;
}
static void calls_of_system(void) {
  for (int i = 0; i < 100000; ++i) syscall(SYS_getppid);
}

int main(void) {
  memory = mmap(NULL, kWords * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 1;
  for (long i = 0; i < kWords; ++i) memory[i] = (uint64_t)i;
  double begin = now();
  integers(), say("integer", begin, 5e7);
  begin = now(), sieve(), say("sieve", begin, 1e6);
  begin = now(), random_reads(), say("random_reads", begin, kReads);
  begin = now(), sink = (uint64_t)fibonacci(30), say("call", begin, 2692537);
  begin = now(), indirect_calls(), say("indirect_call", begin, 1e7);
  begin = now(), doubles(), say("double", begin, 1e7);
  begin = now(), calls_of_system(), say("system_call", begin, 1e5);
  fflush(stdout);
  begin = now();
  const pid_t child = fork();
  if (child < 0) return 1;
  if (child == 0) {
    begin = now(), random_reads(), say("random_reads_after_fork", begin, kReads);
    fflush(stdout);
    _exit(0);
  }
  say("fork", begin, 1e6);
  int status;
  return waitpid(child, &status, 0) != child || status != 0;
}
