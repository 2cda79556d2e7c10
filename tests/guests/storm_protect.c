// mprotect: pages of one's own, neighbours in one page table, random pages of a big region, and the two directions
// timed apart.
#include "storm.h"

#include <signal.h>
#include <stdlib.h>

#include "arch/ticks.h"
#include "isa.h"

// --- each thread makes its pages read-only and writable again. Pages of one thread stand in a 2 MiB block of their
// own, or take turns with those of all other threads in one block ---

enum { kOwn = 8 };
static uint64_t* region;
static size_t page_step, thread_step;  // pages

static void prepare_blocks(void) {
  page_step = 1, thread_step = kBlock / kPage;
  region = map_blocks((size_t)threads * kBlock);
  advise_pages(region, (size_t)threads * kBlock / kPage, MADV_NOHUGEPAGE);
}

static void prepare_table(void) {
  page_step = (size_t)threads, thread_step = 1;
  region = map_blocks(kBlock);
}

static void protect(struct thread* t) {
  for (size_t k = 0; k < kOwn; ++k)
    *page_at(region, (size_t)t->id * thread_step + k * page_step) = stamp((uint64_t)t->id, k);
  for (int r = 0; r < rounds; ++r, ++t->operations) {
    size_t k = (size_t)r % kOwn;
    volatile uint64_t* page = page_at(region, (size_t)t->id * thread_step + k * page_step);
    uint64_t before = page[0];
    protect_pages((void*)page, 1, PROT_READ);
    want(t, "a word of a page made read-only", page[0], before);
    // A signal costs much more than mprotect does.
    if (r % 8 == 0) want(t, "a store to a read-only page", (uint64_t)try_store(page, 1), SEGV_ACCERR);
    want(t, "the word after that", page[0], before);
    protect_pages((void*)page, 1, kRW);
    page[0] = stamp(before, (uint64_t)r);
    want(t, "a word written after PROT_WRITE", page[0], stamp(before, (uint64_t)r));
    t->sum += page[0];
  }
}

// --- random pages of ARGUMENT MiB (64) are protected and restored, page i by thread i % threads; in the end every
// page holds what was written to it last, and can be written. Before and after, random reads are timed, in turn with
// those of as large a region that nobody protects, so that whatever else the machine does meets both ---

static size_t pages;
static uint64_t* written;  // what each page holds
static uint64_t* untouched;

// Nanoseconds of a read at a random place. The place depends on the read before, so that each waits for its translation.
static double time_reads(const uint64_t* at, struct thread* t) {
  enum { kReads = 250000 };
  uint64_t last = 0;
  const uint64_t begin = now();
  for (int n = 0; n < kReads; ++n) last = at[(next_random(t) ^ (last & 1)) % (pages * kWords)];
  const uint64_t time = now() - begin;
  __asm__ volatile("" : : "r"(last));  // the reads are needed
  return (double)time / kReads;
}

static int ascending(const void* a, const void* b) {
  const double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

// Medians: of a read of the region, and of how much longer it takes than one of the region that stays as it is.
static void time_both(const char* ns_name, const char* ratio_name) {
  enum { kPairs = 31 };
  static double ns[kPairs], ratio[kPairs];
  struct thread t = {.random = 88172645463325252u};
  for (int i = 0; i < kPairs; ++i) {
    const double beside = time_reads(untouched, &t);
    ns[i] = time_reads(region, &t);
    ratio[i] = ns[i] / beside;
  }
  qsort(ns, kPairs, sizeof *ns, ascending);
  qsort(ratio, kPairs, sizeof *ratio, ascending);
  timed(ns_name, ns[kPairs / 2]);
  timed(ratio_name, ratio[kPairs / 2]);
}

static void prepare_restore(void) {
  pages = (argument ? strtoul(argument, NULL, 10) : 64) * ((1 << 20) / kPage);
  if (pages < (size_t)threads) fail("a size in MiB is expected, not %s", argument);
  written = calloc(pages, sizeof *written);
  region = map_blocks(pages * kPage);
  if (!written) fail("no memory for %zu words", pages);
  advise_pages(region, pages, MADV_HUGEPAGE);
  for (size_t i = 0; i < pages; ++i) *page_at(region, i) = written[i] = stamp(i, 3);
  if (!timing) return;
  untouched = map_blocks(pages * kPage);
  advise_pages(untouched, pages, MADV_HUGEPAGE);
  for (size_t i = 0; i < pages; ++i) *page_at(untouched, i) = 1;
  time_both("ns_per_read_before", "reads_before");
}

static void protect_restore(struct thread* t) {
  size_t turns = pages / (size_t)threads;
  for (int r = 0; r < rounds; ++r, ++t->operations) {
    size_t i = next_random(t) % turns * (size_t)threads + (size_t)t->id;
    volatile uint64_t* page = page_at(region, i);
    protect_pages((void*)page, 1, r % 2 ? PROT_READ : PROT_NONE);
    if (r % 16 == 0) want(t, "a store to a protected page", (uint64_t)try_store(page, 1), SEGV_ACCERR);
    protect_pages((void*)page, 1, kRW);
    want(t, "a word of a restored page", page[0], written[i]);
    page[0] = written[i] = stamp(i, (uint64_t)r);
    t->sum += page[0];
  }
}

static void finish_restore(void) {
  if (timing) time_both("ns_per_read_after", "reads_after");
  for (size_t i = 0; i < pages; ++i) {
    if (*page_at(region, i) != written[i]) fail("page %zu lost what was written to it", i);
    *page_at(region, i) = 0;
  }
}

// --- one page: mprotect(READ), mprotect(READ|WRITE), access, each timed; the other threads run in user code. Timed by
// the processor's counter, as asking for the time is a system call in a guest, and by medians, as other programs get in
// between ---

static int done;
enum { kRestrict, kUpgrade, kAccess, kSteps };
static uint64_t* taken[kSteps];  // ticks that each round took
static double ns_per_tick;


static void prepare_page(void) {
  region = map_pages(1);
  *region = 1;
  for (int step = 0; step < kSteps; ++step) {
    taken[step] = map_pages((size_t)rounds / kWords + 1);
    for (int r = 0; r < rounds; ++r) taken[step][r] = 1;  // its faults are over before the clock starts
  }
}

static void upgrade(struct thread* t) {
  if (t->id > 0) {
    while (!__atomic_load_n(&done, __ATOMIC_RELAXED)) isa_relax();
    return;
  }
  volatile uint64_t* page = region;
  uint64_t begin_ns = now(), begin_ticks = ramet_ticks();
  for (int r = 0; r < rounds; ++r, ++t->operations) {
    uint64_t a = ramet_ticks();
    protect_pages(region, 1, PROT_READ);
    uint64_t b = ramet_ticks();
    protect_pages(region, 1, kRW);
    uint64_t c = ramet_ticks();
    page[0] = stamp((uint64_t)r, 4);
    uint64_t d = ramet_ticks();
    taken[kRestrict][r] = b - a, taken[kUpgrade][r] = c - b, taken[kAccess][r] = d - c;
    t->sum += page[0];
  }
  ns_per_tick = (double)(now() - begin_ns) / (double)(ramet_ticks() - begin_ticks);
  __atomic_store_n(&done, 1, __ATOMIC_RELAXED);
}

static int by_size(const void* a, const void* b) {
  uint64_t x = *(const uint64_t*)a, y = *(const uint64_t*)b;
  return (x > y) - (x < y);
}

static void finish_upgrade(void) {
  static const char* const names[kSteps] = {"restrict_ns", "upgrade_ns", "access_ns"};
  for (int step = 0; step < kSteps; ++step) {
    qsort(taken[step], (size_t)rounds, sizeof(uint64_t), by_size);
    timed(names[step], (double)taken[step][rounds / 2] * ns_per_tick);
  }
}

const struct storm_case protect_cases[] = {
    {"protect", prepare_blocks, protect, NULL},
    {"protect_same_table", prepare_table, protect, NULL},
    {"protect_restore", prepare_restore, protect_restore, finish_restore},
    {"upgrade", prepare_page, upgrade, finish_upgrade},
    {0},
};
