// Has one of everything that a snapshot keeps, waits for its input, and then checks that all of it is still there.
//   resume DIRECTORY       prints each line of its input, between checks before and after
//   resume hook [NAME]     says where it may be saved, and what it was continued with
//   resume touch MIB       touches memory, waits for its input, and adds the memory up
//   resume some MIB        touches memory, says where it may be saved, and looks at three pages of it
//   resume holds WHAT      has something open that cannot be saved, and reads its input
#define _GNU_SOURCE
#include "../../vmm/include/ramet_guest.h"
#include "check.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t usr1, usr2;
static __thread int of_thread = 1;
static void on_usr1(int sig) { (void)sig, usr1++; }
static void on_usr2(int sig) { (void)sig, usr2++; }

static unsigned long sum_of(const unsigned char* p, size_t n) {
  unsigned long sum = 0;
  for (size_t i = 0; i < n; i++) sum = sum * 31 + p[i];
  return sum;
}

static void fill(unsigned char* p, size_t n, unsigned seed) {
  for (size_t i = 0; i < n; i++) p[i] = (unsigned char)((seed = seed * 1103515245u + 12345u) >> 16);
}

enum { kHeap = 3 << 20, kHidden = 64 << 10, kHoles = 8 << 20, kFile = 40000 };

// What the program has when it is saved, and is to have afterwards.
static struct {
  unsigned char *heap, *hidden, *holes;
  unsigned long heap_sum, hidden_sum;
  int in, again, out, null, random;  // descriptors
  const unsigned char* mapped;
  unsigned char* shared;
  int first;  // of mapped
  sigset_t blocked;
  stack_t stack;
} had;

static void make_memory(void) {
  had.heap = malloc(kHeap);
  fill(had.heap, kHeap, 1);
  had.heap_sum = sum_of(had.heap, kHeap);
  had.hidden = mmap(NULL, kHidden, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  fill(had.hidden, kHidden, 2);
  had.hidden_sum = sum_of(had.hidden, kHidden);
  CHECK(mprotect(had.hidden, kHidden, PROT_NONE) == 0);
  had.holes = mmap(NULL, kHoles, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  for (size_t i = 0; i < kHoles; i += 300000) had.holes[i] = (unsigned char)(i >> 12 | 1);
}

// Read in the middle, written at the end, mapped both ways.
static void open_files(const char* directory) {
  char path[4096];
  snprintf(path, sizeof path, "%s/read", directory);
  had.in = open(path, O_RDONLY);
  CHECK(had.in >= 0 && lseek(had.in, 1000, SEEK_SET) == 1000);
  had.mapped = mmap(NULL, kFile, PROT_READ, MAP_PRIVATE, had.in, 0);
  CHECK(had.mapped != MAP_FAILED);
  had.first = had.mapped[0];
  snprintf(path, sizeof path, "%s/written", directory);
  had.out = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  CHECK(had.out >= 0 && ftruncate(had.out, 8192) == 0);
  had.shared = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, had.out, 0);
  CHECK(had.shared != MAP_FAILED);
  had.shared[5000] = 'a';
  had.again = dup2(had.in, 77);
  CHECK(had.again == 77 && chdir(directory) == 0);
  umask(027);
  had.null = open("/dev/null", O_RDWR), had.random = open("/dev/urandom", O_RDONLY);
  CHECK(had.null >= 0 && had.random >= 0);
}

// One signal pending and blocked, handlers, an alternate stack, a timer far away.
static void set_signals(void) {
  struct sigaction action = {.sa_handler = on_usr1};
  CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
  action.sa_handler = on_usr2;
  CHECK(sigaction(SIGUSR2, &action, NULL) == 0);
  sigemptyset(&had.blocked);
  sigaddset(&had.blocked, SIGUSR1);
  CHECK(sigprocmask(SIG_BLOCK, &had.blocked, NULL) == 0 && raise(SIGUSR1) == 0);
  had.stack = (stack_t){.ss_sp = malloc(1 << 16), .ss_size = 1 << 16};
  CHECK(sigaltstack(&had.stack, NULL) == 0);
  struct itimerval timer = {.it_value = {.tv_sec = 5000}, .it_interval = {.tv_sec = 7}};
  CHECK(setitimer(ITIMER_REAL, &timer, NULL) == 0);
}

// How it is scheduled, what it has locked, and when it is to go.
static void set_scheduling(void) {
  CHECK(sched_setscheduler(0, SCHED_BATCH | SCHED_RESET_ON_FORK, &(struct sched_param){0}) == 0);
  CHECK(syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 6) == 0 && mlock(had.holes, 8192) == 0);
  int killed = open("/proc/self/oom_score_adj", O_RDWR);
  CHECK(killed >= 0 && write(killed, "400", 3) == 3 && close(killed) == 0);
}

static void check_memory(void) {
  CHECK(sum_of(had.heap, kHeap) == had.heap_sum);
  CHECK(mprotect(had.hidden, kHidden, PROT_READ) == 0 && sum_of(had.hidden, kHidden) == had.hidden_sum);
  for (size_t i = 0; i < kHoles; i++) CHECK(had.holes[i] == (i % 300000 ? 0 : (unsigned char)(i >> 12 | 1)));
  void* more = sbrk(1 << 16);
  CHECK(more != (void*)-1);
  memset(more, 1, 1 << 16);
}

static void check_files(const char* directory) {
  const int in = had.in, out = had.out;
  CHECK(lseek(in, 0, SEEK_CUR) == 1000 && lseek(had.again, 10, SEEK_CUR) == 1010 && lseek(in, 0, SEEK_CUR) == 1010);
  CHECK(had.mapped[0] == had.first);
  unsigned char check[kFile];
  CHECK(pread(in, check, kFile, 0) == kFile && sum_of(check, kFile) == sum_of(had.mapped, kFile));
  CHECK(had.shared[5000] == 'a');
  had.shared[5001] = 'b';
  CHECK(write(out, "end", 3) == 3);
  CHECK(pread(out, check, 8195, 0) == 8195 && check[5000] == 'a' && check[5001] == 'b' && check[8192] == 'e');
  CHECK(fcntl(out, F_GETFD) == FD_CLOEXEC && (fcntl(out, F_GETFL) & O_APPEND));
  CHECK(write(had.null, "gone", 4) == 4 && read(had.null, check, 4) == 0 && read(had.random, check, 4) == 4);
  CHECK(umask(0) == 027);
  char where[4096], expected[4096];
  CHECK(getcwd(where, sizeof where) && realpath(directory, expected) && strcmp(where, expected) == 0);
}

static void check_signals(void) {
  sigset_t pending;
  stack_t stack;
  struct itimerval timer;
  CHECK(usr1 == 0 && sigpending(&pending) == 0 && sigismember(&pending, SIGUSR1));
  CHECK(sigprocmask(SIG_UNBLOCK, &had.blocked, NULL) == 0 && usr1 == 1);
  CHECK(raise(SIGUSR2) == 0 && usr2 == 1);
  CHECK(sigaltstack(NULL, &stack) == 0 && stack.ss_sp == had.stack.ss_sp && stack.ss_size == had.stack.ss_size);
  CHECK(getitimer(ITIMER_REAL, &timer) == 0 && timer.it_value.tv_sec > 4000 && timer.it_interval.tv_sec == 7);
}

static void check_scheduling(void) {
  char text[8];
  CHECK(sched_getscheduler(0) == (SCHED_BATCH | SCHED_RESET_ON_FORK) && syscall(SYS_ioprio_get, 1, 0) == (2 << 13 | 6));
  CHECK(madvise(had.holes, 4096, MADV_DONTNEED) == -1 && errno == EINVAL && munlock(had.holes, 8192) == 0);
  int killed = open("/proc/self/oom_score_adj", O_RDONLY);
  CHECK(read(killed, text, 4) == 4 && memcmp(text, "400\n", 4) == 0 && close(killed) == 0);
}

static int everything(const char* directory) {
  make_memory();
  open_files(directory);
  set_signals();
  set_scheduling();
  of_thread = 42;
  double number = 1.0 / 3;
  __asm__ volatile("" : "+x"(number));

  printf("before\n");
  char line[256];
  while (fgets(line, sizeof line, stdin)) printf("line: %s", line);

  CHECK(number == 1.0 / 3 && of_thread == 42 && getpid() == gettid());
  check_memory();
  check_files(directory);
  check_signals();
  check_scheduling();
  // A child sees the same.
  const unsigned long file_sum = sum_of(had.mapped, kFile);
  fflush(stdout);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) _exit(sum_of(had.heap, kHeap) == had.heap_sum && sum_of(had.mapped, kFile) == file_sum ? 9 : 1);
  int status;
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 9);
  printf("after\n");
  return 5;
}

static int hook(const char* name) {
  char arguments[64];
  printf("before\n");
  ramet_snapshot("another");
  const long copy = ramet_snapshot_arguments(name, arguments, sizeof arguments);
  printf("copy %ld\n", copy);
  for (const char* a = arguments; *a; a += strlen(a) + 1) printf("argument %s\n", a);
  char line[256];
  if (fgets(line, sizeof line, stdin)) printf("line: %s", line);
  return (int)copy;
}

// Memory whose pages differ, and the place where it may be saved.
static unsigned char* saved_memory(size_t n) {
  unsigned char* p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(p != MAP_FAILED);
  for (size_t i = 0; i < n; i += 4096) *(uint64_t*)(p + i) = i * 0x9e3779b97f4a7c15u | 1;
  ramet_snapshot("ready");
  return p;
}

static int touch(size_t mib) {
  const size_t n = mib << 20;
  const unsigned char* p = saved_memory(n);
  char line[256];
  const char* got = fgets(line, sizeof line, stdin);
  if (got && line[0] == 'q') return 0;
  for (size_t i = 0; i < n; i += 4096) CHECK(*(uint64_t*)(p + i) == (i * 0x9e3779b97f4a7c15u | 1));
  printf("%zu MiB\n", mib);
  return 0;
}

static int some(size_t mib) {
  const size_t n = mib << 20;
  unsigned char* p = saved_memory(n);
  const size_t pages[] = {0, n / 2, n - 4096};
  for (size_t i = 0; i < 3; i++) {
    CHECK(*(uint64_t*)(p + pages[i]) == (pages[i] * 0x9e3779b97f4a7c15u | 1));
    p[pages[i]] = 7;
  }
  printf("3 pages of %zu MiB\n", mib);
  return 0;
}

static int holds(const char* what) {
  static const char zeroes[4096];
  int fd[2] = {-1, -1};
  if (strcmp(what, "socket") == 0) CHECK((fd[0] = socket(AF_UNIX, SOCK_STREAM, 0)) >= 0);
  else if (strcmp(what, "fifo") == 0) CHECK(mkfifo("/data/fifo", 0600) == 0 && (fd[0] = open("/data/fifo", O_RDWR)) >= 0);
  else if (strcmp(what, "contents") == 0) {
    for (int i = 0; i < 17; i++) {
      CHECK(pipe(fd) == 0 && fcntl(fd[1], F_SETPIPE_SZ, 1 << 20) == 1 << 20);
      for (int n = 0; n < 1 << 20; n += 4096) CHECK(write(fd[1], zeroes, 4096) == 4096);
    }
  } else if (strcmp(what, "memory") == 0) CHECK((fd[0] = memfd_create("m", 0)) >= 0);
  else if (strcmp(what, "temporary") == 0) CHECK((fd[0] = open("/tmp/resume", O_CREAT | O_RDWR, 0600)) >= 0);
  else if (strcmp(what, "shared") == 0)
    CHECK(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
  else if (strcmp(what, "segment") == 0) CHECK(shmget(IPC_PRIVATE, 4096, 0600) >= 0);
  else if (strcmp(what, "child") == 0) {
    if (fork() == 0) {
      pause();
      _exit(0);
    }
  } else return 2;
  char c;
  return (int)read(0, &c, 1);
}

int main(int argc, char** argv) {
  if (argc == 3 && strcmp(argv[1], "touch") == 0) return touch((size_t)atol(argv[2]));
  if (argc == 3 && strcmp(argv[1], "some") == 0) return some((size_t)atol(argv[2]));
  if (argc == 3 && strcmp(argv[1], "holds") == 0) return holds(argv[2]);
  if (argc >= 2 && strcmp(argv[1], "hook") == 0) return hook(argc > 2 ? argv[2] : "ready");
  if (argc == 2) return everything(argv[1]);
  return 2;
}
