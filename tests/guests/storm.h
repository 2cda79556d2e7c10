// Storms of memory management: what storm.c gives to the files that hold the cases.
#pragma once

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdint.h>
#include <sys/mman.h>

enum { kPage = 4096, kWords = kPage / 8, kMaxThreads = 64 };
#define kBlock ((size_t)2 << 20)
enum { kRW = PROT_READ | PROT_WRITE };

struct thread {
  int id;
  uint64_t random;      // state of next_random()
  uint64_t operations;  // how many this thread did
  uint64_t sum;         // of what it read back; the sum over all threads is printed
  uint64_t begin, end;  // nanoseconds
};

struct storm_case {
  const char* name;
  void (*prepare)(void);         // before the threads start; may be null
  void (*body)(struct thread*);  // in every thread
  void (*finish)(void);          // after they ended; may be null
};
extern const struct storm_case fault_cases[], race_cases[], protect_cases[], map_cases[], program_cases[];

extern int threads, rounds, timing;
extern const char* argument;  // the one after ROUNDS, or null

// Says on standard error what is wrong, and ends the program with status 1.
__attribute__((noreturn, format(printf, 1, 2))) void fail(const char* sentence, ...);
uint64_t now(void);
void meet(void);  // waits until every thread is here
// A line that only --time prints.
void timed(const char* name, double value);

uint64_t* map_pages(size_t pages);          // readable and writable, anywhere
uint64_t* map_blocks(size_t bytes);         // the same, on a 2 MiB boundary
void unmap_pages(void* at, size_t pages);
void protect_pages(void* at, size_t pages, int prot);
void advise_pages(void* at, size_t pages, int advice);
// SEGV_MAPERR, SEGV_ACCERR, or 0: what a load or a store gets.
int try_load(const volatile uint64_t* at, uint64_t* value);
int try_store(volatile uint64_t* at, uint64_t value);

static inline uint64_t next_random(struct thread* t) {
  t->random ^= t->random << 13, t->random ^= t->random >> 7, t->random ^= t->random << 17;
  return t->random;
}

// A word that tells where and when it was written; never zero.
static inline uint64_t stamp(uint64_t a, uint64_t b) {
  uint64_t x = a * 0x9e3779b97f4a7c15u + b;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return (x ^ (x >> 31)) | 1;
}

static inline void want(const struct thread* t, const char* what, uint64_t got, uint64_t wanted) {
  if (got != wanted) fail("thread %d: %s: found %#llx instead of %#llx", t->id, what, (unsigned long long)got,
                          (unsigned long long)wanted);
}

static inline volatile uint64_t* page_at(uint64_t* base, size_t page) { return base + page * kWords; }
