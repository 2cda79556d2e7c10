// Processes: many of them, as a tree, at a time, from several threads, and up to a limit.
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "processes.h"

struct tree {
  atomic_int processes, deepest;
};

static void grow(struct tree* tree, int depth, int width) {
  atomic_fetch_add(&tree->processes, 1);
  if (depth > atomic_load(&tree->deepest)) atomic_store(&tree->deepest, depth);
  if (depth == 3) return;
  pid_t pids[8];
  for (int i = 0; i < width; ++i) {
    pids[i] = fork();
    CHECK(pids[i] >= 0);
    if (pids[i] == 0) {
      grow(tree, depth + 1, width);
      _exit(depth + 1);
    }
  }
  for (int i = 0; i < width; ++i) CHECK(status_of(pids[i]) == (depth + 1) << 8);
}

void tree(int width) {
  CHECK(width <= 8);
  struct tree* tree = shared_memory(sizeof *tree);
  fflush(stdout);
  grow(tree, 0, width);  // of 6: 1 + 6 + 36 + 216
  printf("%d processes, %d deep\n", atomic_load(&tree->processes), atomic_load(&tree->deepest));
}

void many(int number) {
  int hold[2];
  CHECK(pipe(hold) == 0);
  pid_t pids[number];
  for (int i = 0; i < number; ++i) {
    pids[i] = fork();
    CHECK(pids[i] >= 0);
    if (pids[i] == 0) {
      close(hold[1]);
      wait_for_end((void*)(intptr_t)hold[0]);
      _exit(i & 0x7f);
    }
    for (int j = 0; j < i; ++j) CHECK(pids[i] != pids[j]);
  }
  close(hold[1]);
  for (int i = 0; i < number; ++i) CHECK(status_of(pids[i]) == (i & 0x7f) << 8);
  printf("%d processes at a time\n", number);
  for (int i = 0; i < number; ++i) ends_well(child_of(exit_with, NULL));
  printf("%d one after the other\n", number);
}

// --- threads ---

static atomic_int stop;
static void* churn(void* unused) {
  (void)unused;
  while (!atomic_load(&stop)) {
    char* p = malloc(3000);
    memset(p, 7, 3000);
    free(p);
  }
  return NULL;
}
static void uses_memory_alone(void* unused) {
  (void)unused;
  for (int i = 0; i < 100; ++i) free(malloc(5000));
  CHECK(syscall(SYS_tgkill, getpid(), getpid(), 0) == 0);
}
static int forks_each;
static void* forks(void* count) {
  for (int i = 0; i < forks_each; ++i) {
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
      uses_memory_alone(NULL);
      _exit(0);
    }
    ends_well(pid);
    atomic_fetch_add((atomic_int*)count, 1);
  }
  return NULL;
}
static void* thread_exits_process(void* code) { _exit((int)(intptr_t)code); }
static void ends_from_a_thread(void* unused) {
  (void)unused;
  pthread_t t;
  CHECK(pthread_create(&t, NULL, thread_exits_process, (void*)33) == 0);
  for (;;) pause();
}
static void leader_leaves(void* unused) {
  (void)unused;
  pthread_t t;
  CHECK(pthread_create(&t, NULL, thread_exits_process, (void*)34) == 0);
  syscall(SYS_exit, 1);
}

void threaded(int rounds) {
  forks_each = rounds;
  pthread_t noise[3], forking[3];
  atomic_int forked = 0;
  for (int i = 0; i < 3; ++i) CHECK(pthread_create(&noise[i], NULL, churn, NULL) == 0);
  for (int i = 0; i < 3; ++i) CHECK(pthread_create(&forking[i], NULL, forks, &forked) == 0);
  for (int i = 0; i < 3; ++i) pthread_join(forking[i], NULL);
  atomic_store(&stop, 1);
  for (int i = 0; i < 3; ++i) pthread_join(noise[i], NULL);
  printf("%d forks beside other threads\n", atomic_load(&forked));
  CHECK(status_of(child_of(ends_from_a_thread, NULL)) == 33 << 8);
  CHECK(status_of(child_of(leader_leaves, NULL)) == 34 << 8);
  puts("a thread ends its process");
}

// --- limits ---

// Forks until it is refused; for guests only, as natively it takes the machine.
void limit(void) {
  int hold[2];
  CHECK(pipe(hold) == 0);
  int made = 0;
  for (;; ++made) {
    pid_t pid = fork();
    if (pid < 0) break;
    if (pid == 0) {
      close(hold[1]);
      wait_for_end((void*)(intptr_t)hold[0]);
      _exit(0);
    }
  }
  const int refused = errno;
  printf("%d children\n", made);
  fflush(stdout);
  CHECK(refused == EAGAIN);
  close(hold[1]);
  for (int i = 0; i < made; ++i) CHECK(wait(NULL) > 0);
  struct rlimit few = {3, 3};
  CHECK(setrlimit(RLIMIT_NPROC, &few) == 0);
  for (int i = 0; i < 2; ++i) child_of(exit_with, NULL);
  CHECK_ERRNO(fork(), EAGAIN);  // zombies count
  CHECK(wait(NULL) > 0);
  child_of(exit_with, NULL);
  puts("limited");
}

void bomb(void) {
  for (;;) fork();
}
