// What it costs to make a page executable again, by what has been done to it meanwhile; microseconds each, medians of rounds.
// The page holds kFunctions functions of two instructions, each of which is called once a round.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "isa.h"

enum { kPage = 4096, kFunctions = 200, kApart = 16, kRounds = 101 };

static unsigned char* page;
static volatile int sum;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void protect(int protection) {
  if (mprotect(page, kPage, protection) != 0) exit(1);
}
static void call(int functions) {
  for (int i = 0; i < functions; ++i) sum += ((int (*)(void))(uintptr_t)(page + i * kApart))();
}
static void write_functions(int functions, int value) {
  for (int i = 0; i < functions; ++i) isa_function((uint16_t)value, page + i * kApart);
  __builtin___clear_cache((char*)page, (char*)page + functions * kApart);
}

static void call_all(int round) { (void)round, call(kFunctions); }
static void not_written(int round) {
  (void)round;
  protect(PROT_READ | PROT_WRITE);
  protect(PROT_READ | PROT_EXEC);
  call(kFunctions);
}
static void one_written(int round) {
  protect(PROT_READ | PROT_WRITE);
  write_functions(1, round);
  protect(PROT_READ | PROT_EXEC);
  call(1);
}
static void all_written(int round) {
  protect(PROT_READ | PROT_WRITE);
  write_functions(kFunctions, round);
  protect(PROT_READ | PROT_EXEC);
  call(kFunctions);
}

static int by_value(const void* a, const void* b) {
  const double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}
static void measure(const char* name, void (*round)(int)) {
  double took[kRounds];
  for (int i = -1; i < kRounds; ++i) {
    const double begin = now();
    round(i + 2);
    if (i >= 0) took[i] = now() - begin;
  }
  qsort(took, kRounds, sizeof *took, by_value);
  printf("%s %.3f\n", name, took[kRounds / 2]);
}

int main(void) {
  page = mmap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return 1;
  write_functions(kFunctions, 1);
  protect(PROT_READ | PROT_EXEC);
  measure("call_all", call_all);
  measure("not_written", not_written);
  measure("one_written", one_written);
  measure("all_written", all_written);
  return 0;
}
