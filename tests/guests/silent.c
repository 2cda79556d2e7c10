// Two guests of one family: silent CASE DIRECTORY. One does over and over what the case names, with nice value 5, by
// which whoever stops its process of the host finds that. The other does what may meet the first one, and writes how
// far it has come into a file. Both end when there is a file `stop`.
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum { kPage = 4096 };
static volatile struct shared {
  int one, other;  // are to end
} * stop;
static const char* directory;

static void fork_one(void) {
  const pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid == 0) _exit(0);
  CHECK(waitpid(pid, NULL, 0) == pid);
}

// --- what the one does ---

static volatile int computing = 1;
static void* compute(void* unused) {
  while (computing) {}
  return unused;
}
// Beside a running thread, the process's first thread makes the change.
static void flush(void) {
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, compute, NULL) == 0);
  volatile char* p = mmap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  while (!stop->one) {
    *p = 1;
    CHECK(mprotect((void*)p, kPage, PROT_READ) == 0 && mprotect((void*)p, kPage, PROT_READ | PROT_WRITE) == 0);
  }
  computing = 0;
  CHECK(pthread_join(thread, NULL) == 0);
}
static void forks(void) {
  while (!stop->one) fork_one();
}
static void fill(void) {
  enum { kPages = 256 };
  while (!stop->one) {
    volatile char* p = mmap(NULL, kPages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    for (int i = 0; i < kPages; ++i) p[i * kPage] = 1;
    CHECK(munmap((void*)p, kPages * kPage) == 0);
  }
}
static void threads(void) {
  while (!stop->one) {
    pthread_t thread;
    computing = 0;
    CHECK(pthread_create(&thread, NULL, compute, NULL) == 0 && pthread_join(thread, NULL) == 0);
  }
}
static void computes(void) {
  while (!stop->one) {}
}
// A file of which the other one cuts off what is mapped here, and which is cut here as well.
static int cut_file(const char* name) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", directory, name);
  const int fd = open(path, O_CREAT | O_RDWR, 0600);
  CHECK(fd >= 0 && ftruncate(fd, 4 * kPage) == 0);
  return fd;
}
static int both[2];
static void make_whole(int sig) {
  (void)sig;
  for (int i = 0; i < 2; ++i) (void)!ftruncate(both[i], 4 * kPage);
}
static void cuts(void) {
  const int fd = cut_file("cut"), own = cut_file("own");
  both[0] = fd, both[1] = own;
  CHECK(signal(SIGBUS, make_whole) != SIG_ERR);
  volatile char* p = mmap(NULL, 4 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  volatile char* q = mmap(NULL, 4 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, own, 0);
  CHECK(p != MAP_FAILED && q != MAP_FAILED);
  while (!stop->one) {
    p[3 * kPage] = q[3 * kPage] = 1;
    CHECK(ftruncate(own, kPage) == 0 && ftruncate(own, 4 * kPage) == 0);
  }
}

// --- the other ---

static void read_file(int pid, const char* name) {
  char path[64], text[4096];
  snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
  const int fd = open(path, O_RDONLY);
  CHECK(fd >= 0);
  while (read(fd, text, sizeof text) > 0) {}
  close(fd);
}
static void steps(pid_t of) {
  char path[4096], text[32];
  snprintf(path, sizeof path, "%s/steps", directory);
  const int fd = open(path, O_CREAT | O_RDWR, 0600);
  const int shared = shmget(IPC_PRIVATE, kPage, IPC_CREAT | 0600);
  const int cut = cut_file("cut");
  CHECK(fd >= 0 && shared >= 0);
  for (unsigned step = 1; !stop->other; ++step) {
    fork_one();
    volatile char* p = mmap(NULL, 64 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    for (int i = 0; i < 64; i += 4) p[i * kPage] = 1;
    CHECK(mprotect((void*)p, 8 * kPage, PROT_READ) == 0 && munmap((void*)p, 64 * kPage) == 0);
    pthread_t thread;
    computing = 0;
    CHECK(pthread_create(&thread, NULL, compute, NULL) == 0 && pthread_join(thread, NULL) == 0);
    CHECK(ftruncate(cut, kPage) == 0 && ftruncate(cut, 4 * kPage) == 0);
    // What asks of the first one, or tells it something.
    CHECK(kill(of, SIGUSR1) == 0 && getpriority(PRIO_PROCESS, (id_t)of) == 5);
    cpu_set_t set;
    CHECK(sched_getaffinity(of, sizeof set, &set) == 0 && sched_setaffinity(of, sizeof set, &set) == 0);
    struct rlimit limit;
    CHECK(prlimit(of, RLIMIT_CORE, NULL, &limit) == 0 && getpgid(of) > 0);
    clockid_t clock;
    struct timespec t;
    CHECK(clock_getcpuclockid(of, &clock) == 0 && clock_gettime(clock, &t) == 0);
    // Also those that tell of its memory, in which a change may be under way.
    static const char* const files[] = {"cmdline", "comm", "environ", "auxv", "limits", "maps", "stat", "statm", "status"};
    for (unsigned i = 0; i < sizeof files / sizeof *files; ++i) read_file(of, files[i]);
    DIR* all = opendir("/proc");
    CHECK(all);
    while (readdir(all)) {}
    closedir(all);
    struct shmid_ds segment;
    CHECK(shmctl(shared, IPC_STAT, &segment) == 0 && segment.shm_nattch == 0);  // looks at everybody's mappings
    CHECK(pwrite(fd, text, (size_t)snprintf(text, sizeof text, "%10u\n", step), 0) > 0);
  }
  CHECK(shmctl(shared, IPC_RMID, NULL) == 0);
}

// By so many threads that one of them always is where it has to wait for the process.
enum { kThreads = 4 };
static void (*run)(void);
static void* does(void* unused) {
  run();
  return unused;
}

int main(int argc, char** argv) {
  static const struct {
    const char* name;
    void (*run)(void);
  } cases[] = {{"flush", flush}, {"fork", forks}, {"fill", fill}, {"threads", threads}, {"computes", computes}, {"cuts", cuts}};
  CHECK(argc == 3);
  directory = argv[2];
  stop = mmap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(stop != MAP_FAILED && signal(SIGUSR1, SIG_IGN) == SIG_DFL);
  for (unsigned i = 0; i < sizeof cases / sizeof *cases; ++i)
    if (strcmp(cases[i].name, argv[1]) == 0) run = cases[i].run;
  CHECK(run);
  // Its child is the one; it is the other itself, and its parent waits.
  int ready[2];
  CHECK(pipe(ready) == 0);
  const pid_t one = fork();
  if (one == 0) {
    CHECK(setpriority(PRIO_PROCESS, 0, 5) == 0 && write(ready[1], "", 1) == 1);
    pthread_t all[kThreads];
    for (int i = 0; i < kThreads; ++i) CHECK(pthread_create(&all[i], NULL, does, NULL) == 0);
    for (int i = 0; i < kThreads; ++i) CHECK(pthread_join(all[i], NULL) == 0);
    _exit(0);
  }
  char byte;
  CHECK(read(ready[0], &byte, 1) == 1);
  const pid_t other = fork();
  if (other == 0) {
    steps(one);
    _exit(0);
  }
  char path[4096];
  snprintf(path, sizeof path, "%s/stop", directory);
  while (access(path, F_OK) != 0) usleep(10000);
  stop->other = 1;
  int status;
  CHECK(waitpid(other, &status, 0) == other && status == 0);
  stop->one = 1;
  CHECK(waitpid(one, &status, 0) == one && status == 0);
  printf("both ended\n");
  return 0;
}
