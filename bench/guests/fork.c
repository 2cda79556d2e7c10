// What fork(2) costs a program with much memory, and what writing to it costs the child. fork MIB [ROUNDS]
// The child reports by shared memory. Time is the processor's own counter, which costs no system call to read.
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/ticks.h"

enum { kPage = 4096, kScattered = 256, kSequence = 2048 };

static int ascending(const void* a, const void* b) {
  const uint64_t x = *(const uint64_t*)a, y = *(const uint64_t*)b;
  return x < y ? -1 : x > y;
}

static uint64_t median(uint64_t* all, size_t n) {
  qsort(all, n, sizeof *all, ascending);
  return all[n / 2];
}

struct Report {
  uint64_t began, scattered, sequence, first_write;
};

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  const size_t bytes = strtoul(argv[1], NULL, 10) << 20;
  const size_t rounds = argc > 2 ? strtoul(argv[2], NULL, 10) : 21;
  const size_t need = (kSequence + 4 * kScattered) * kPage;
  char* p = mmap(NULL, bytes + need, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  struct Report* report = mmap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  uint64_t* forks = malloc(5 * rounds * sizeof *forks);
  if (p == MAP_FAILED || report == MAP_FAILED || !forks || rounds == 0) return 1;
  uint64_t *begun = forks + rounds, *first = begun + rounds, *scattered = first + rounds, *sequence = scattered + rounds;
  memset(forks, 1, 5 * rounds * sizeof *forks);
  memset(report, 1, sizeof *report);
  char* small = p + bytes;  // of small pages, for what the child writes
  madvise(small, need, MADV_NOHUGEPAGE);
  memset(p, 1, bytes + need);

  for (size_t i = 0; i < rounds; ++i) {
    const uint64_t from = ramet_ticks();
    const pid_t pid = fork();
    const uint64_t to = ramet_ticks();
    if (pid < 0) return 1;
    if (pid == 0) {
      report->began = to;
      *(volatile char*)small = 2;
      report->first_write = ramet_ticks() - to;
      // Every fourth page in an order that no pattern follows, then pages one after the other.
      const uint64_t at = ramet_ticks();
      for (size_t k = 1; k < kScattered; ++k) *(volatile char*)(small + k * 167 % kScattered * 4 * kPage) = 2;
      const uint64_t then = ramet_ticks();
      report->scattered = then - at;
      for (size_t k = 0; k < kSequence; ++k) *(volatile char*)(small + (4 * kScattered + k) * kPage) = 2;
      report->sequence = ramet_ticks() - then;
      _exit(0);
    }
    forks[i] = to - from;
    int status;
    if (waitpid(pid, &status, 0) != pid || status != 0) return 1;
    begun[i] = report->began - from;
    first[i] = report->first_write;
    scattered[i] = report->scattered / (kScattered - 1);
    sequence[i] = report->sequence / kSequence;
  }
  const double ns = ns_per_tick();
  printf("fork_ns %.0f\nchild_begins_ns %.0f\nfirst_write_ns %.0f\n", median(forks, rounds) * ns,
         median(begun, rounds) * ns, median(first, rounds) * ns);
  printf("scattered_write_ns %.0f\nsequence_write_ns %.0f\n", median(scattered, rounds) * ns,
         median(sequence, rounds) * ns);
}
