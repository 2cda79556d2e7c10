// Processes: what they share in memory, what a child has of its parent's, and what it does not.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>

#include "processes.h"

struct area {
  atomic_int counter;
  long plain;
  pthread_mutex_t mutex, robust;
  pthread_cond_t condition;
  pthread_barrier_t barrier;
  sem_t ping, pong;
  int turn;
};

static void shared_area(struct area* area, const char* what) {
  enum { kProcesses = 4, kRounds = 300 };
  memset(area, 0, sizeof *area);
  pthread_mutexattr_t m;
  pthread_mutexattr_init(&m);
  pthread_mutexattr_setpshared(&m, PTHREAD_PROCESS_SHARED);
  pthread_mutex_init(&area->mutex, &m);
  pthread_mutexattr_setrobust(&m, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(&area->robust, &m);
  pthread_condattr_t c;
  pthread_condattr_init(&c);
  pthread_condattr_setpshared(&c, PTHREAD_PROCESS_SHARED);
  pthread_cond_init(&area->condition, &c);
  pthread_barrierattr_t b;
  pthread_barrierattr_init(&b);
  pthread_barrierattr_setpshared(&b, PTHREAD_PROCESS_SHARED);
  pthread_barrier_init(&area->barrier, &b, kProcesses);
  sem_init(&area->ping, 1, 0);
  sem_init(&area->pong, 1, 0);
  pid_t pids[kProcesses];
  for (int p = 0; p < kProcesses; ++p) {
    pids[p] = fork();
    CHECK(pids[p] >= 0);
    if (pids[p] != 0) continue;
    pthread_barrier_wait(&area->barrier);
    for (int i = 0; i < kRounds; ++i) {
      atomic_fetch_add(&area->counter, 1);
      pthread_mutex_lock(&area->mutex);
      ++area->plain;
      pthread_mutex_unlock(&area->mutex);
    }
    pthread_mutex_lock(&area->mutex);
    while (area->turn != p) pthread_cond_wait(&area->condition, &area->mutex);
    ++area->turn;
    pthread_cond_broadcast(&area->condition);
    pthread_mutex_unlock(&area->mutex);
    _exit(0);
  }
  for (int p = 0; p < kProcesses; ++p) ends_well(pids[p]);
  printf("%s: %d atomic, %ld under a mutex, %d turns\n", what, atomic_load(&area->counter), area->plain, area->turn);
  pid_t pid = fork();
  if (pid == 0) {
    for (int i = 0; i < kRounds; ++i) {
      CHECK(sem_wait(&area->ping) == 0);
      ++area->plain;
      CHECK(sem_post(&area->pong) == 0);
    }
    pthread_mutex_lock(&area->robust);
    _exit(0);  // and leaves it locked
  }
  for (int i = 0; i < kRounds; ++i) {
    CHECK(sem_post(&area->ping) == 0);
    CHECK(sem_wait(&area->pong) == 0);
  }
  ends_well(pid);
  CHECK(pthread_mutex_lock(&area->robust) == EOWNERDEAD && pthread_mutex_consistent(&area->robust) == 0);
  CHECK(pthread_mutex_unlock(&area->robust) == 0);
  printf("%s: semaphores, and a mutex whose owner died: %ld\n", what, area->plain);
}

// What is moved to beside other memory, whose page tables a child shares, leaves that as it was.
static void moved_pages(void) {
  enum { kBlock = 2 << 20, kPiece = 1 << 16 };
  char* area = mmap(NULL, 4 * kBlock, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(area != MAP_FAILED);
  char* block = (char*)(((uintptr_t)area + kBlock - 1) & -(uintptr_t)kBlock);
  char* moves = mmap(NULL, kPiece, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(moves != MAP_FAILED && mprotect(block, 4096, PROT_READ | PROT_WRITE) == 0);
  strcpy(block, "neighbour");
  strcpy(moves, "moves");
  const pid_t pid = child_of(wait_for_ever, NULL);
  moves = mremap(moves, kPiece, kPiece, MREMAP_MAYMOVE | MREMAP_FIXED, block + kBlock - kPiece);
  CHECK(moves == block + kBlock - kPiece && strcmp(moves, "moves") == 0 && strcmp(block, "neighbour") == 0);
  CHECK(kill(pid, SIGKILL) == 0 && status_of(pid) == SIGKILL);
  puts("moved pages");
}

void shared(const char* directory) {
  CHECK(chdir(directory) == 0);
  shared_area(shared_memory(sizeof(struct area)), "anonymous");
  int fd = open("area", O_RDWR | O_CREAT | O_TRUNC, 0644);
  CHECK(fd >= 0 && ftruncate(fd, 65536) == 0);
  struct area* mapped = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  CHECK(mapped != MAP_FAILED);
  shared_area(mapped, "file");
  memset(mapped, 'x', 65536);
  // Private pages of the same file are each process's own; what the parent maps later the child does not see.
  char* private = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  CHECK(private != MAP_FAILED);
  private[0] = 'p';
  char* forgotten = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(forgotten != MAP_FAILED && madvise(forgotten, 4096, MADV_DONTFORK) == 0);
  char* wiped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(wiped != MAP_FAILED && madvise(wiped, 4096, MADV_WIPEONFORK) == 0);
  CHECK_ERRNO(madvise(mapped, 4096, MADV_WIPEONFORK), EINVAL);
  strcpy(wiped, "a key");
  char* hidden = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(hidden != MAP_FAILED);
  strcpy(hidden, "behind no access");
  CHECK(mprotect(hidden, 4096, PROT_NONE) == 0);
  char* constant = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  strcpy(constant, "read only");
  CHECK(mprotect(constant, 4096, PROT_READ) == 0);
  pid_t pid = fork();
  if (pid == 0) {
    CHECK(private[0] == 'p' && private[1] == 'x');
    private[0] = 'c', private[4096] = 'c';
    ((char*)mapped)[100] = 'c';
    CHECK_ERRNO(msync(forgotten, 4096, MS_ASYNC), ENOMEM);
    CHECK(forgotten[4096] == 0);
    CHECK(wiped[0] == 0);
    wiped[0] = 'c';
    const pid_t grandchild = fork();
    if (grandchild == 0) _exit(wiped[0]);
    ends_well(grandchild);
    CHECK(wiped[0] == 'c');
    CHECK(mprotect(hidden, 4096, PROT_READ) == 0 && strcmp(hidden, "behind no access") == 0);
    CHECK(strcmp(constant, "read only") == 0);
    CHECK(mprotect(constant, 4096, PROT_READ | PROT_WRITE) == 0);
    strcpy(constant, "changed");
    CHECK(ftruncate(fd, 4096) == 0);                   // under the parent's mapping
    _exit(0);
  }
  ends_well(pid);
  CHECK(private[0] == 'p' && ((char*)mapped)[100] == 'c');
  CHECK(strcmp(constant, "read only") == 0 && strcmp(wiped, "a key") == 0);
  pid = fork();
  if (pid == 0) _exit(((volatile char*)mapped)[8192]);
  CHECK(WTERMSIG(status_of(pid)) == SIGBUS);
  puts("private, forgotten and hidden pages");
  moved_pages();
}
