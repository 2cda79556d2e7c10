// What programs do with threads and memory: hand work to each other by mutexes and conditions, and allocate,
// search and free blocks of random size (after ebizzy).
#include "storm.h"

#include <linux/futex.h>
#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

// --- pairs of threads hand a token to and fro. A thread without a partner calls FUTEX_WAKE instead, as a mutex with
// waiters does; an operation is a turn ---

static struct pair {
  pthread_mutex_t lock;
  pthread_cond_t turned;
  uint64_t turn;
} pairs[kMaxThreads / 2 + 1];
static pthread_mutex_t common_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t common;

static void prepare_pairs(void) {
  for (int i = 0; i <= threads / 2; ++i) {
    pthread_mutex_init(&pairs[i].lock, NULL);
    pthread_cond_init(&pairs[i].turned, NULL);
  }
}

static void futex(struct thread* t) {
  struct pair* p = &pairs[t->id / 2];
  int alone = t->id == threads - 1 && threads % 2 == 1;
  static int nobody_waits;
  for (int r = 0; r < rounds; ++r, ++t->operations) {
    if (alone) {
      long woken = syscall(SYS_futex, &nobody_waits, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, NULL, NULL, 0);
      want(t, "the number of threads woken where none waits", (uint64_t)woken, 0);
      t->sum += ++p->turn;
    } else {
      pthread_mutex_lock(&p->lock);
      while (p->turn % 2 != (uint64_t)t->id % 2) pthread_cond_wait(&p->turned, &p->lock);
      want(t, "the turn", p->turn, 2 * (uint64_t)r + (uint64_t)t->id % 2);
      t->sum += ++p->turn;
      pthread_cond_signal(&p->turned);
      pthread_mutex_unlock(&p->lock);
    }
    pthread_mutex_lock(&common_lock);
    ++common;
    pthread_mutex_unlock(&common_lock);
  }
}

static void finish_pairs(void) {
  if (common != (uint64_t)threads * (uint64_t)rounds) fail("the common counter is %llu", (unsigned long long)common);
}

// --- ebizzy: a record copies a random part of a sorted table into a mapping of its own, searches it for a random
// key, and frees it ---

enum { kTables = 10, kMost = 32 * kWords };
static uint64_t tables[kTables][kMost];

static uint64_t key_at(size_t table, size_t i) { return (i * 2 + 1) * (table + 1); }

static void prepare_tables(void) {
  for (size_t table = 0; table < kTables; ++table)
    for (size_t i = 0; i < kMost; ++i) tables[table][i] = key_at(table, i);
}

static void ebizzy(struct thread* t) {
  for (int r = 0; r < rounds; ++r, ++t->operations) {
    size_t table = next_random(t) % kTables, count = 1 + next_random(t) % kMost, bytes = count * sizeof(uint64_t);
    size_t wanted = next_random(t) % count, low = 0, high = count - 1, page_count = (bytes + kPage - 1) / kPage;
    uint64_t* copy = map_pages(page_count);
    memcpy(copy, tables[table], bytes);
    while (low < high) {
      size_t middle = (low + high) / 2;
      if (copy[middle] < key_at(table, wanted)) low = middle + 1;
      else high = middle;
    }
    want(t, "the place of the key", low, wanted);
    want(t, "the key", copy[low], key_at(table, wanted));
    if (memcmp(copy, tables[table], bytes) != 0) fail("thread %d: record %d is not what was copied", t->id, r);
    unmap_pages(copy, page_count);
    t->sum += low;
  }
}

const struct storm_case program_cases[] = {
    {"futex", prepare_pairs, futex, finish_pairs},
    {"ebizzy", prepare_tables, ebizzy, NULL},
    {0},
};
