// CPU-bound work in three parts, integer, floating point and memory, each timed by itself; no system calls
// within a part. Its memory is there before the clock starts. cpu [SCALE]: SCALE 100 is about a second a part.
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t next(uint64_t* state) {  // xorshift64*
  *state ^= *state >> 12, *state ^= *state << 25, *state ^= *state >> 27;
  return *state * 0x2545f4914f6cdd1du;
}

// Hashing, data-dependent branches and divisions.
static uint64_t integers(long scale) {
  uint64_t state = 88172645463325252u, sum = 0;
  for (long i = 0; i < scale * 1500000; ++i) {
    uint64_t r = next(&state);
    if (r & 1) sum += r >> 7;
    else if (r & 2) sum ^= r * 31;
    else sum -= r % ((r >> 56) + 3);
  }
  return sum;
}

enum { kOrder = 96 };
static double a[kOrder][kOrder], b[kOrder][kOrder], c[kOrder][kOrder];

// Matrix products in double precision.
static uint64_t floats(long scale) {
  for (int i = 0; i < kOrder; ++i)
    for (int j = 0; j < kOrder; ++j) a[i][j] = 1.0 / (i + j + 1), b[i][j] = (double)(i ^ j) / kOrder;
  for (long round = 0; round < scale * 8; ++round) {
    for (int i = 0; i < kOrder; ++i)
      for (int j = 0; j < kOrder; ++j) {
        double sum = 0;
        for (int k = 0; k < kOrder; ++k) sum += a[i][k] * b[k][j];
        c[i][j] = sum;
      }
    a[round % kOrder][0] += c[round % kOrder][1] * 1e-9;
  }
  uint64_t bits;
  memcpy(&bits, &c[kOrder / 2][kOrder / 3], sizeof bits);
  return bits;
}

enum { kWords = 32 << 17 };  // 32 MiB of uint64_t

// Dependent loads all over the buffer (each a TLB and a cache miss), and streams through it.
static uint64_t memory(uint64_t* words, long scale) {
  uint64_t at = 0, sum = 0;
  for (long i = 0; i < scale * 60000; ++i) at = words[at], sum += at;
  for (long i = 0; i < scale / 4 + 1; ++i) {
    memcpy(words, words + kWords / 2, kWords / 2 * sizeof *words);
    for (long j = i; j < kWords; j += 8) sum += words[j];
  }
  return sum;
}

int main(int argc, char** argv) {
  long scale = argc > 1 ? atol(argv[1]) : 100;
  uint64_t* words = mmap(NULL, kWords * sizeof *words, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (words == MAP_FAILED) return 1;
  madvise(words, kWords * sizeof *words, MADV_HUGEPAGE);  // so that both sides have the pages ramet takes anyway
  uint64_t state = 42;
  for (uint64_t i = 0; i < kWords; ++i) words[i] = i;
  for (uint64_t i = kWords - 1; i > 0; --i) {  // Sattolo: one cycle through all words
    uint64_t j = next(&state) % i, t = words[i];
    words[i] = words[j], words[j] = t;
  }
  uint64_t t0 = now(), x = integers(scale);
  uint64_t t1 = now(), y = floats(scale);
  uint64_t t2 = now(), z = memory(words, scale);
  uint64_t t3 = now();
  printf("integer_ns %llu\nfloat_ns %llu\nmemory_ns %llu\nchecksum %016llx\n", (unsigned long long)(t1 - t0),
         (unsigned long long)(t2 - t1), (unsigned long long)(t3 - t2), (unsigned long long)(x ^ y * 3 ^ z * 7));
  return 0;
}
