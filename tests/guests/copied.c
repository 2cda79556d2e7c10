// A program that is saved after it has used its random generators: what its copies still share. Prints a line of what must
// be different in each of them.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "../../vmm/include/ramet_guest.h"

#define CHECK(holds)                                                                                            \
  do {                                                                                                          \
    if (!(holds)) fprintf(stderr, "%s:%d: not so: %s (errno %d)\n", __FILE__, __LINE__, #holds, errno), exit(1); \
  } while (0)

static volatile sig_atomic_t heard;
static void hear(int sig) { heard += sig == SIGUSR1; }

static void line_of(const char* path, char out[64]) {
  FILE* file = fopen(path, "r");
  CHECK(file && fgets(out, 64, file));
  out[strcspn(out, "\n")] = 0;
  fclose(file);
}

static uint64_t of_device(void) {
  uint64_t value;
  FILE* file = fopen("/dev/urandom", "r");
  CHECK(file && fread(&value, sizeof value, 1, file) == 1);
  fclose(file);
  return value;
}

int main(void) {
  char* wiped = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(wiped != MAP_FAILED && madvise(wiped, 8192, MADV_WIPEONFORK) == 0);
  memset(wiped, 'w', 8192);
  CHECK(mprotect(wiped + 4096, 4096, PROT_READ) == 0);
  uint64_t random;
  CHECK(getrandom(&random, sizeof random, 0) == sizeof random);
  (void)of_device(), (void)arc4random();
  char before[64], now[64];
  line_of("/proc/sys/kernel/random/boot_id", before);
  CHECK(signal(SIGUSR1, hear) != SIG_ERR);
  pthread_mutexattr_t recursive;
  pthread_mutex_t lock;
  CHECK(pthread_mutexattr_init(&recursive) == 0 && pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE) == 0);
  CHECK(pthread_mutex_init(&lock, &recursive) == 0 && pthread_mutex_lock(&lock) == 0);
  const pid_t pid = getpid();

  const long first = ramet_snapshot("used"), second = ramet_snapshot("again");  // the second in a copy
  if (first == 0 && second == 0) return 0;

  CHECK(getpid() != pid && getpid() == gettid());
  CHECK(pthread_mutex_trylock(&lock) == 0 && raise(SIGUSR1) == 0 && pthread_kill(pthread_self(), SIGUSR1) == 0 && heard == 2);
  CHECK(kill(pid, 0) == -1 && errno == ESRCH);
  for (int i = 0; i < 8192; ++i) CHECK(wiped[i] == 0);
  line_of("/proc/sys/kernel/random/boot_id", now);
  CHECK(strcmp(before, now) != 0);
  CHECK(getrandom(&random, sizeof random, 0) == sizeof random);
  uint64_t drawn;
  arc4random_buf(&drawn, sizeof drawn);
  printf("%d %016lx %016lx %s %016lx\n", getpid(), (unsigned long)random, (unsigned long)of_device(), now, (unsigned long)drawn);
  return 0;
}
