// Litmus tests on two threads, many times each: message passing, store buffering, load buffering, by barriers, by acquire and
// release, by sequentially consistent accesses. Outcomes that the language forbids must not come; that the threads really
// meet is seen by outcomes of relaxed ones that only then come.
//   litmus [ROUNDS]
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "check.h"

enum { SLOTS = 4096, TOGETHER = 32 };  // rounds that are looked at at once, and that the threads run without waiting for each other
struct slot {
  _Alignas(64) atomic_int x;
  _Alignas(64) atomic_int y;
  int seen[2][2];  // by thread: what it read
};

struct test {
  const char *name;
  void (*run[2])(struct slot *);
  int (*forbidden)(const struct slot *);
};

static const memory_order none = memory_order_relaxed, acquire = memory_order_acquire, release = memory_order_release, all = memory_order_seq_cst;
#define PUT(what, order) atomic_store_explicit(&s->what, 1, order)
#define GET(me, n, what, order) s->seen[me][n] = atomic_load_explicit(&s->what, order)
#define FENCE(order) atomic_thread_fence(order)

static void mp_writer_fence(struct slot *s) { PUT(x, none); FENCE(release); PUT(y, none); }
static void mp_reader_fence(struct slot *s) { GET(1, 0, y, none); FENCE(acquire); GET(1, 1, x, none); }
static void mp_writer(struct slot *s) { PUT(x, none); PUT(y, release); }
static void mp_reader(struct slot *s) { GET(1, 0, y, acquire); GET(1, 1, x, none); }
static void mp_writer_add(struct slot *s) { PUT(x, none); atomic_fetch_add_explicit(&s->y, 1, release); }
static void mp_reader_exchange(struct slot *s) {
  int one = 1;
  s->seen[1][0] = atomic_compare_exchange_strong_explicit(&s->y, &one, 1, acquire, acquire);
  GET(1, 1, x, none);
}
static int mp_forbidden(const struct slot *s) { return s->seen[1][0] == 1 && s->seen[1][1] == 0; }

static void sb_first_fence(struct slot *s) { PUT(x, none); FENCE(all); GET(0, 0, y, none); }
static void sb_second_fence(struct slot *s) { PUT(y, none); FENCE(all); GET(1, 0, x, none); }
static void sb_first(struct slot *s) { PUT(x, all); GET(0, 0, y, all); }
static void sb_second(struct slot *s) { PUT(y, all); GET(1, 0, x, all); }
static void sb_first_relaxed(struct slot *s) { PUT(x, none); GET(0, 0, y, none); }
static void sb_second_relaxed(struct slot *s) { PUT(y, none); GET(1, 0, x, none); }
static void sb_first_exchange(struct slot *s) { (void)atomic_exchange(&s->x, 1); GET(0, 0, y, all); }
static void sb_second_exchange(struct slot *s) { (void)atomic_exchange(&s->y, 1); GET(1, 0, x, all); }
static int sb_forbidden(const struct slot *s) { return s->seen[0][0] == 0 && s->seen[1][0] == 0; }

static void lb_first(struct slot *s) { GET(0, 0, x, acquire); PUT(y, release); }
static void lb_second(struct slot *s) { GET(1, 0, y, acquire); PUT(x, release); }
static void lb_first_fence(struct slot *s) { GET(0, 0, x, none); FENCE(all); PUT(y, none); }
static void lb_second_fence(struct slot *s) { GET(1, 0, y, none); FENCE(all); PUT(x, none); }
static int lb_forbidden(const struct slot *s) { return s->seen[0][0] == 1 && s->seen[1][0] == 1; }

static const struct test tests[] = {
    {"message passing, fences", {mp_writer_fence, mp_reader_fence}, mp_forbidden},
    {"message passing, release and acquire", {mp_writer, mp_reader}, mp_forbidden},
    {"message passing, read-modify-write", {mp_writer_add, mp_reader_exchange}, mp_forbidden},
    {"store buffering, fences", {sb_first_fence, sb_second_fence}, sb_forbidden},
    {"store buffering, sequentially consistent", {sb_first, sb_second}, sb_forbidden},
    {"store buffering, exchanges", {sb_first_exchange, sb_second_exchange}, sb_forbidden},
    {"load buffering, acquire and release", {lb_first, lb_second}, lb_forbidden},
    {"load buffering, fences", {lb_first_fence, lb_second_fence}, lb_forbidden},
};
// Here both may read what was before.
static const struct test meeting = {"store buffering, relaxed", {sb_first_relaxed, sb_second_relaxed}, sb_forbidden};

static const struct test *now;
static struct slot *slots;
static long rounds;

// Both leave within a moment, if there are two processors.
static atomic_int arrived;
static void meet(void) {
  const int mine = atomic_fetch_add(&arrived, 1), both = (mine | 1) + 1;
  for (int spins = 0; atomic_load(&arrived) < both; spins++)
    if (spins > 1000) sched_yield();
}

static void go_through(int me) {
  for (int i = 0; i < SLOTS; i++) {
    if (i % TOGETHER == 0) meet();
    now->run[me](&slots[i]);
  }
}

static void *second(void *unused) {
  (void)unused;
  for (;;) {
    meet();
    if (!now) return NULL;
    go_through(1);
    meet();
  }
}

// How often the outcome came.
static long run(const struct test *test) {
  long came = 0;
  for (long round = 0; round < rounds; round += SLOTS) {
    for (int i = 0; i < SLOTS; i++) slots[i] = (struct slot){0};
    now = test;
    meet();
    go_through(0);
    meet();
    for (int i = 0; i < SLOTS; i++) came += test->forbidden(&slots[i]);
  }
  return came;
}

int main(int argc, char **argv) {
  rounds = argc > 1 ? atol(argv[1]) : 1000000;
  // Private memory, and memory that is shared: some machines reach them in other ways.
  for (int shared = 0; shared < 2; shared++) {
    slots = mmap(NULL, SLOTS * sizeof *slots, PROT_READ | PROT_WRITE, (shared ? MAP_SHARED : MAP_PRIVATE) | MAP_ANONYMOUS, -1, 0);
    CHECK(slots != MAP_FAILED);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, second, NULL) == 0);
    for (unsigned i = 0; i < sizeof tests / sizeof *tests; i++) {
      const long came = run(&tests[i]);
      if (came) {
        fprintf(stderr, "%s: %ld of %ld forbidden outcomes, %s memory\n", tests[i].name, came, rounds, shared ? "shared" : "private");
        return 1;
      }
    }
    fprintf(stderr, "%s: %ld of %ld\n", meeting.name, run(&meeting), rounds);
    now = NULL;
    meet();
    CHECK(pthread_join(thread, NULL) == 0);
  }
  puts("litmus: ok");
  return 0;
}
