// Storms of page faults and of calls that change mappings, in 1 to 64 threads; each checks what it finds.
//   storm [--time] CASE THREADS ROUNDS [ARGUMENT]
// What it prints depends on the arguments only, except for what --time adds: operations, ns_per_op (from the
// start of the first thread to the end of the last), and what the case itself timed. "storm --list" names the cases.
#include "storm.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int threads, rounds, timing;
const char* argument;
static const struct storm_case* chosen;
static pthread_barrier_t all;
static struct thread state[kMaxThreads];

void fail(const char* sentence, ...) {
  char text[512];
  va_list list;
  va_start(list, sentence);
  vsnprintf(text, sizeof text, sentence, list);
  va_end(list);
  dprintf(2, "storm: %s: %s\n", chosen ? chosen->name : "arguments", text);
  _exit(1);
}

uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void meet(void) { pthread_barrier_wait(&all); }

void timed(const char* name, double value) {
  if (timing) printf("%s %.6g\n", name, value);
}

uint64_t* map_pages(size_t pages) {
  void* p = mmap(NULL, pages * kPage, kRW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) fail("mmap of %zu pages: %s", pages, strerror(errno));
  return p;
}

uint64_t* map_blocks(size_t bytes) {
  char* p = (char*)map_pages((bytes + kBlock) / kPage);
  char* aligned = (char*)(((uintptr_t)p + kBlock - 1) & ~(kBlock - 1));
  if (aligned > p) unmap_pages(p, (size_t)(aligned - p) / kPage);
  if (p + kBlock > aligned) unmap_pages(aligned + bytes, (size_t)(p + kBlock - aligned) / kPage);
  return (uint64_t*)aligned;
}

void unmap_pages(void* at, size_t pages) {
  if (munmap(at, pages * kPage)) fail("munmap of %zu pages: %s", pages, strerror(errno));
}

void protect_pages(void* at, size_t pages, int prot) {
  if (mprotect(at, pages * kPage, prot)) fail("mprotect of %zu pages: %s", pages, strerror(errno));
}

void advise_pages(void* at, size_t pages, int advice) {
  if (madvise(at, pages * kPage, advice)) fail("madvise %d of %zu pages: %s", advice, pages, strerror(errno));
}

// Where a fault goes on, while one is expected. The signal is not blocked meanwhile, so that neither side of
// sigsetjmp needs a system call.
static __thread sigjmp_buf* volatile expected;
static __thread volatile int fault_code;

static void on_fault(int signal, siginfo_t* info, void* context) {
  (void)context;
  if (!expected) fail("signal %d, code %d, at %p where every access is allowed", signal, info->si_code, info->si_addr);
  fault_code = info->si_code;
  siglongjmp(*expected, 1);
}

int try_load(const volatile uint64_t* at, uint64_t* value) {
  sigjmp_buf here;
  int code = 0;
  if (sigsetjmp(here, 0) == 0) {
    expected = &here;
    *value = *at;
  } else {
    code = fault_code;
  }
  expected = NULL;
  return code;
}

int try_store(volatile uint64_t* at, uint64_t value) {
  sigjmp_buf here;
  int code = 0;
  if (sigsetjmp(here, 0) == 0) {
    expected = &here;
    *at = value;
  } else {
    code = fault_code;
  }
  expected = NULL;
  return code;
}

static void* run_thread(void* arg) {
  struct thread* t = arg;
  t->random = stamp(4711, (uint64_t)t->id);
  meet();
  t->begin = now();
  chosen->body(t);
  t->end = now();
  return NULL;
}

static const struct storm_case* const lists[] = {fault_cases, race_cases, protect_cases, map_cases, program_cases};

static const struct storm_case* find(const char* name) {
  for (size_t i = 0; i < sizeof lists / sizeof *lists; ++i)
    for (const struct storm_case* c = lists[i]; c->name; ++c)
      if (strcmp(c->name, name) == 0) return c;
  fail("no case is called %s", name);
}

int main(int argc, char** argv) {
  if (argc == 2 && strcmp(argv[1], "--list") == 0) {
    for (size_t i = 0; i < sizeof lists / sizeof *lists; ++i)
      for (const struct storm_case* c = lists[i]; c->name; ++c) puts(c->name);
    return 0;
  }
  timing = argc > 1 && strcmp(argv[1], "--time") == 0;
  argc -= timing, argv += timing;
  if (argc < 4 || argc > 5) fail("storm [--time] CASE THREADS ROUNDS [ARGUMENT]");
  threads = atoi(argv[2]), rounds = atoi(argv[3]), argument = argc > 4 ? argv[4] : NULL;
  if (threads < 1 || threads > kMaxThreads || rounds < 0) fail("1 to %d threads, 0 or more rounds", kMaxThreads);
  chosen = find(argv[1]);
  struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
  sigaction(SIGSEGV, &action, NULL);
  sigaction(SIGBUS, &action, NULL);

  pthread_t handles[kMaxThreads];
  pthread_barrier_init(&all, NULL, (unsigned)threads);
  if (chosen->prepare) chosen->prepare();
  for (int i = 0; i < threads; ++i) {
    state[i].id = i;
    int error = pthread_create(&handles[i], NULL, run_thread, &state[i]);
    if (error) fail("thread %d: %s", i, strerror(error));
  }
  uint64_t begin = UINT64_MAX, end = 0, operations = 0, sum = 0;
  for (int i = 0; i < threads; ++i) {
    pthread_join(handles[i], NULL);
    operations += state[i].operations, sum += state[i].sum;
    if (state[i].begin < begin) begin = state[i].begin;
    if (state[i].end > end) end = state[i].end;
  }
  if (chosen->finish) chosen->finish();
  printf("%s: %d threads, %d rounds, %llu operations, sum %016llx\n", chosen->name, threads, rounds,
         (unsigned long long)operations, (unsigned long long)sum);
  timed("operations", (double)operations);
  timed("ns_per_op", operations ? (double)(end - begin) / (double)operations : 0);
  return 0;
}
