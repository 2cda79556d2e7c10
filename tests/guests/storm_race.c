// Threads fault while thread 0 maps, unmaps and protects: elsewhere, next to them, and the very pages they use.
// While the threads run, nobody maps "anywhere", so that what was unmapped stays a hole.
#include "storm.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>

static uint64_t* field;
static int left;  // threads besides thread 0 that are not done yet
static int done;  // thread 0 is

static int is_left(void) { return __atomic_load_n(&left, __ATOMIC_ACQUIRE); }
static void leave(void) { __atomic_fetch_sub(&left, 1, __ATOMIC_RELEASE); }
static int is_done(void) { return __atomic_load_n(&done, __ATOMIC_ACQUIRE); }

static void map_again(volatile uint64_t* page) {
  void* at = (void*)page;
  if (mmap(at, kPage, kRW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != at)
    fail("mmap of a page in its old place: %s", strerror(errno));
}

// --- elsewhere: every other thread touches chunks of one big mapping of 4 KiB pages, each page once, the chunks out
// of order, so that a guess at what comes next does not save the faults ---

enum { kChunk = 16, kStride = 7919 };  // a prime, so that every chunk has its turn
static uint64_t* elsewhere;
static uint64_t unmaps;

static int faulters(void) { return threads > 1 ? threads - 1 : 1; }

static void prepare_elsewhere(void) {
  if (rounds % kStride == 0) fail("the rounds must not be a multiple of %d", kStride);
  size_t pages = (size_t)faulters() * (size_t)rounds * kChunk;
  field = map_pages(pages);
  advise_pages(field, pages, MADV_NOHUGEPAGE);
  elsewhere = map_pages(kChunk);
  left = faulters();
}

static void fault_chunks(struct thread* t) {
  int me = threads > 1 ? t->id - 1 : 0;
  for (int r = 0; r < rounds; ++r) {
    size_t chunk = (size_t)r * kStride % (size_t)rounds;
    size_t first = (chunk * (size_t)faulters() + (size_t)me) * kChunk;
    for (size_t i = first; i < first + kChunk; ++i) *page_at(field, i) = stamp(i, 1);
    for (size_t i = first; i < first + kChunk; ++i, ++t->operations) {
      want(t, "a word just written", *page_at(field, i), stamp(i, 1));
      want(t, "the rest of a new page", page_at(field, i)[kWords - 1], 0);
      t->sum += *page_at(field, i);
    }
  }
  leave();
}

static void fault_while_unmapping(struct thread* t) {
  if (threads == 1 || t->id > 0) return fault_chunks(t);
  for (; is_left(); ++unmaps) {
    unmap_pages(elsewhere, kChunk);
    void* again = mmap(elsewhere, kChunk * kPage, kRW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (again != elsewhere) fail("mmap elsewhere: %s", strerror(errno));
    want(t, "a new page elsewhere", *page_at(elsewhere, unmaps % kChunk), 0);
    *page_at(elsewhere, unmaps % kChunk) = stamp(unmaps, 2);
    want(t, "a word written elsewhere", *page_at(elsewhere, unmaps % kChunk), stamp(unmaps, 2));
  }
}

static void check_all_chunks(void) {
  size_t pages = (size_t)faulters() * (size_t)rounds * kChunk;
  for (size_t i = 0; i < pages; ++i)
    if (*page_at(field, i) != stamp(i, 1)) fail("page %zu lost what was written to it", i);
  timed("unmaps", (double)unmaps);
}

// --- next to them: even pages are touched and emptied, odd ones unmapped and mapped ---

enum { kOwn = 8 };

static void prepare_neighbours(void) {
  field = map_pages((size_t)faulters() * kOwn * 2 + 1);  // the last page keeps the last hole from being an edge
  left = faulters();
}

static void touch_even(struct thread* t) {
  size_t me = threads > 1 ? (size_t)t->id - 1 : 0;
  for (int r = 0; r < rounds; ++r)
    for (size_t k = 0; k < kOwn; ++k, ++t->operations) {
      volatile uint64_t* page = page_at(field, 2 * (k * (size_t)faulters() + me));
      want(t, "a page that was empty", page[k], 0);
      page[k] = stamp(me, (uint64_t)r);
      want(t, "a word just written", page[k], stamp(me, (uint64_t)r));
      t->sum += page[k];
      advise_pages((void*)page, 1, MADV_DONTNEED);
    }
  leave();
}

static void fault_beside_unmapping(struct thread* t) {
  if (threads == 1 || t->id > 0) return touch_even(t);
  while (is_left()) {
    volatile uint64_t* page = page_at(field, next_random(t) % ((size_t)faulters() * kOwn) * 2 + 1);
    uint64_t value;
    unmap_pages((void*)page, 1);
    want(t, "a load from an unmapped page", (uint64_t)try_load(page, &value), SEGV_MAPERR);
    map_again(page);
    want(t, "a page mapped again", page[7], 0);
    page[7] = 1;
  }
}

// --- the very pages: thread 0 unmaps and maps them, each time with a higher number in word 0. Another thread may
// find a hole, a new page, or the number, but never one that had gone before it looked. What it stores must not
// reach a frame that has another owner by now: thread 0, while the page is a hole, and thread 1, at any time, take
// frames and check them. ---

enum { kContested = 8, kTaken = 4 };
static uint64_t published[kContested];
static uint64_t* taken;  // kTaken pages each for threads 0 and 1

static void prepare_contested(void) {
  field = map_pages(kContested);
  taken = map_pages(2 * kTaken);
}

static void take(uint64_t* own, uint64_t round) {
  for (size_t w = 0; w < kTaken * kWords; ++w) own[w] = stamp(round, w);
}

static void check_and_give(const struct thread* t, uint64_t* own, uint64_t round) {
  for (size_t w = 0; w < kTaken * kWords; ++w)
    want(t, "a word of memory that no other thread has", *(volatile uint64_t*)(own + w), stamp(round, w));
  advise_pages(own, kTaken, MADV_DONTNEED);
}

static void contest(struct thread* t) {
  uint64_t* own = taken + kTaken * kWords;
  for (uint64_t round = 0; t->id == 1 && threads > 2 && !is_done(); ++round) {
    take(own, round);
    check_and_give(t, own, round);
  }
  while (!is_done()) {
    size_t k = next_random(t) % kContested;
    uint64_t before = __atomic_load_n(&published[k], __ATOMIC_ACQUIRE), found = 0;
    if (try_load(page_at(field, k), &found) == 0 && found != 0 && found < before)
      fail("thread %d: page %zu shows %llu after %llu was there", t->id, k, (unsigned long long)found,
           (unsigned long long)before);
    if (try_store(page_at(field, k) + 1 + t->id, before + 1)) sched_yield();
  }
}

static void unmap_under_fault(struct thread* t) {
  if (t->id > 0) return contest(t);
  for (int r = 0; r < rounds; ++r, ++t->operations) {
    size_t k = (size_t)r % kContested;
    volatile uint64_t* page = page_at(field, k);
    uint64_t value;
    unmap_pages((void*)page, 1);
    want(t, "a load from an unmapped page", (uint64_t)try_load(page, &value), SEGV_MAPERR);
    take(taken, (uint64_t)r);
    map_again(page);
    want(t, "word 0 of a page mapped again", page[0], 0);
    page[0] = (uint64_t)r + 1;
    __atomic_store_n(&published[k], (uint64_t)r + 1, __ATOMIC_RELEASE);
    check_and_give(t, taken, (uint64_t)r);
    want(t, "the number just written", page[0], (uint64_t)r + 1);
    t->sum += page[0];
  }
  __atomic_store_n(&done, 1, __ATOMIC_RELEASE);
}

// --- protected under writers: once mprotect has returned, nothing changes any more ---

static void prepare_writers(void) { field = map_pages(1); }

static void write_on(struct thread* t) {
  volatile uint64_t* mine = page_at(field, 0) + t->id;
  for (uint64_t n = 1; !is_done();) {
    int code = try_store(mine, n);
    if (code) {
      want(t, "the code of a refused store", (uint64_t)code, SEGV_ACCERR);
      want(t, "a word after a refused store", *mine, n - 1);
      sched_yield();
    } else {
      want(t, "a word just written", *mine, n);
      ++n;
    }
  }
}

static void protect_under_writers(struct thread* t) {
  if (t->id > 0) return write_on(t);
  volatile uint64_t* page = page_at(field, 0);
  for (int r = 0; r < rounds; ++r, ++t->operations) {
    uint64_t seen[kMaxThreads];
    protect_pages(field, 1, PROT_READ);
    for (int i = 0; i < threads; ++i) seen[i] = page[i];
    for (int again = 0; again < 1000; ++again)
      for (int i = 0; i < threads; ++i) want(t, "a word of a protected page", page[i], seen[i]);
    want(t, "a store to a protected page", (uint64_t)try_store(page, 1), SEGV_ACCERR);
    protect_pages(field, 1, kRW);
    page[0] = (uint64_t)r;
    t->sum += page[0];
  }
  __atomic_store_n(&done, 1, __ATOMIC_RELEASE);
}

const struct storm_case race_cases[] = {
    {"fault_while_unmapping", prepare_elsewhere, fault_while_unmapping, check_all_chunks},
    {"fault_beside_unmapping", prepare_neighbours, fault_beside_unmapping, NULL},
    {"unmap_under_fault", prepare_contested, unmap_under_fault, NULL},
    {"protect_under_writers", prepare_writers, protect_under_writers, NULL},
    {0},
};
