// Processor time: each clock that tells of it, and what goes by such clocks. All of them see what guest code itself took,
// wherever a machine runs it. Nothing is measured in seconds of the wall: a clock is looked at until another one has
// moved so far, and whoever never moves ends with the test's own limit.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/times.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

enum { kTick = 10 * 1000 * 1000 };  // nanoseconds: the coarsest that any of them counts in
#define STEP (6ll * kTick)

static long long ns(struct timespec t) { return t.tv_sec * 1000000000ll + t.tv_nsec; }
static long long of_clock(clockid_t clock) {
  struct timespec t;
  CHECK(clock_gettime(clock, &t) == 0);
  return ns(t);
}
static long long of_timeval(struct timeval t) { return t.tv_sec * 1000000000ll + t.tv_usec * 1000ll; }
static long long of_usage(int who) {
  struct rusage usage;
  CHECK(getrusage(who, &usage) == 0);
  return of_timeval(usage.ru_utime) + of_timeval(usage.ru_stime);
}
static long long of_times(void) {
  struct tms t;
  CHECK(times(&t) != (clock_t)-1);
  return (t.tms_utime + t.tms_stime) * (1000000000ll / sysconf(_SC_CLK_TCK));
}
static long long of_stat(void) {
  char text[1024], *at;
  int fd = open("/proc/self/stat", O_RDONLY);
  ssize_t n = read(fd, text, sizeof text - 1);
  CHECK(fd >= 0 && n > 0 && close(fd) == 0);
  text[n] = 0;
  unsigned long user, system;
  CHECK((at = strrchr(text, ')')) && sscanf(at + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) == 2);
  return (user + system) * (1000000000ll / sysconf(_SC_CLK_TCK));
}

// Computes, and makes no system call meanwhile.
enum { kIterations = 2000000 };
static volatile unsigned long sink;
static void burn(void) {
  for (int i = 0; i < kIterations; ++i) sink += i;
}
static void burn_until(long long (*clock)(void), long long until) {
  while (clock() < until) burn();
}
static long long of_process(void) { return of_clock(CLOCK_PROCESS_CPUTIME_ID); }
static long long of_thread(void) { return of_clock(CLOCK_THREAD_CPUTIME_ID); }
static long long of_self(void) { return of_usage(RUSAGE_SELF); }
static long long of_thread_usage(void) { return of_usage(RUSAGE_THREAD); }

// Whatever one of them has seen, none of the others has seen much less: what is compared is read later.
static void clocks(void) {
  static const struct {
    const char* name;
    long long (*read)(void);
  } all[] = {{"the process's clock", of_process}, {"the thread's clock", of_thread}, {"getrusage of the process", of_self},
             {"getrusage of the thread", of_thread_usage}, {"times", of_times}, {"/proc/self/stat", of_stat}};
  enum { kCount = sizeof all / sizeof *all };
  // Each iteration needs what the one before has stored, so it takes a cycle at least; no processor has 10 GHz.
  enum { kBurns = 200 };
  const long long least = kBurns * (kIterations / 10ll);
  long long start[kCount];
  for (int i = 0; i < kCount; ++i) start[i] = all[i].read();
  for (int i = 0; i < kBurns; ++i) burn();
  for (int i = 0; i < kCount; ++i) CHECK(all[i].read() - start[i] >= least - 2 * kTick);
  printf("computing without a call is seen by all\n");
  for (int by = 0; by < kCount; ++by) {
    long long before[kCount], last[kCount];
    for (int i = 0; i < kCount; ++i) before[i] = last[i] = all[i].read();
    burn_until(all[by].read, before[by] + STEP);
    for (int round = 0; round < 20; ++round)
      for (int i = 0; i < kCount; ++i) {
        const long long now = all[i].read();
        CHECK(now >= last[i]);
        last[i] = now;
      }
    for (int i = 0; i < kCount; ++i) CHECK(last[i] - before[i] >= STEP - 2 * kTick);
    printf("%s: the others saw as much\n", all[by].name);
  }
}

// A clock by the id of a thread or process, and the timers that go by them.
static volatile int go = 1;
static pthread_barrier_t begun;
static void* burner(void* tid) {
  *(int*)tid = gettid();
  pthread_barrier_wait(&begun);
  while (go) burn();
  return (void*)(long)(of_thread() / kTick);
}
static clockid_t clock_of_thread(int tid) { return (~(clockid_t)tid << 3) | 6; }
static void others(void) {
  pthread_t thread;
  int tid = 0;
  pthread_barrier_init(&begun, NULL, 2);
  const long long mine = of_thread(), all = of_process();
  CHECK(pthread_create(&thread, NULL, burner, &tid) == 0);
  pthread_barrier_wait(&begun);
  clockid_t clock, process;
  CHECK(pthread_getcpuclockid(thread, &clock) == 0 && clock == clock_of_thread(tid));
  const long long until = of_clock(clock) + STEP;
  struct timespec deadline = {until / 1000000000, until % 1000000000};
  CHECK(clock_nanosleep(clock, TIMER_ABSTIME, &deadline, NULL) == 0 && of_clock(clock) >= until);
  const long long now = of_process();
  CHECK(clock_getcpuclockid(getpid(), &process) == 0);
  deadline = (struct timespec){(now + STEP) / 1000000000, (now + STEP) % 1000000000};
  CHECK(clock_nanosleep(process, TIMER_ABSTIME, &deadline, NULL) == 0 && of_clock(process) >= now + STEP);
  go = 0;
  void* used;
  CHECK(pthread_join(thread, &used) == 0);
  // It is counted for the process after its end as well, and none of it for this thread.
  CHECK(of_process() - all >= (long)used * kTick && of_process() >= of_thread());
  CHECK(of_self() - (all - mine) >= (long)used * kTick - kTick);
  struct timespec t;
  while (clock_gettime(clock_of_thread(tid), &t) == 0) sched_yield();  // it is joined a little before it is gone
  CHECK(errno == EINVAL);
  CHECK(clock_nanosleep(CLOCK_THREAD_CPUTIME_ID, 0, &(struct timespec){0, 1}, NULL) == EINVAL);
  printf("a thread's clock by its id, and sleeping by it\n");
}

static void children(void) {
  const pid_t pid = fork();
  if (pid == 0) {
    CHECK(of_process() < STEP);  // its own begins anew
    burn_until(of_process, STEP);
    const pid_t grandchild = fork();
    if (grandchild == 0) {
      burn_until(of_process, STEP);
      _exit(0);
    }
    CHECK(waitpid(grandchild, NULL, 0) == grandchild && of_usage(RUSAGE_CHILDREN) >= STEP - kTick);
    execl("/proc/self/exe", "cputime", "after_exec", NULL);
    _exit(1);
  }
  int status;
  struct rusage usage;
  CHECK(wait4(pid, &status, 0, &usage) == pid && status == 0);
  CHECK(of_timeval(usage.ru_utime) + of_timeval(usage.ru_stime) >= 2 * STEP - 2 * kTick);
  struct tms t;
  CHECK(times(&t) != (clock_t)-1 && (t.tms_cutime + t.tms_cstime) * (1000000000ll / sysconf(_SC_CLK_TCK)) >= 2 * STEP - 4 * kTick);
  CHECK(of_usage(RUSAGE_CHILDREN) >= 2 * STEP - 2 * kTick);
  printf("children and their children, through an exec\n");
}

static volatile sig_atomic_t told[65];
static volatile sig_atomic_t overruns;
static void count(int sig, siginfo_t* info, void* context) {
  (void)context;
  if (info->si_code == SI_TIMER) overruns += info->si_overrun;
  ++told[sig];
}
static void timers(void) {
  struct sigaction action = {.sa_sigaction = count, .sa_flags = SA_SIGINFO | SA_RESTART};
  for (int i = 0; i < 3; ++i) CHECK(sigaction((int[]){SIGVTALRM, SIGPROF, SIGUSR1}[i], &action, NULL) == 0);
  for (int which = ITIMER_VIRTUAL; which <= ITIMER_PROF; ++which) {
    const int sig = which == ITIMER_VIRTUAL ? SIGVTALRM : SIGPROF;
    const long long before = of_process();
    struct itimerval now, set = {{0, STEP / 1000}, {0, STEP / 1000}};
    CHECK(setitimer(which, &set, NULL) == 0 && getitimer(which, &now) == 0);
    CHECK(of_timeval(now.it_value) > 0 && of_timeval(now.it_value) <= STEP + kTick && of_timeval(now.it_interval) == STEP);
    while (told[sig] < 3) burn();
    CHECK(of_process() - before >= STEP);  // Linux counts the user's part by samples
    CHECK(setitimer(which, &(struct itimerval){0}, &now) == 0 && of_timeval(now.it_value) <= STEP + kTick);
    CHECK(getitimer(which, &now) == 0 && of_timeval(now.it_value) == 0);
    printf("interval timer %d\n", which);
  }
  clockid_t own;
  CHECK(pthread_getcpuclockid(pthread_self(), &own) == 0);
  for (int i = 0; i < 3; ++i) {
    const clockid_t clock = (clockid_t[]){CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID, own}[i];
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1}, none = {.sigev_notify = SIGEV_NONE};
    timer_t timer, silent;
    CHECK(timer_create(clock, &event, &timer) == 0 && timer_create(clock, &none, &silent) == 0);
    const long long before = of_clock(clock), first = before + STEP;
    told[SIGUSR1] = overruns = 0;
    struct itimerspec now, set = {{0, kTick}, {first / 1000000000, first % 1000000000}};
    CHECK(timer_settime(timer, TIMER_ABSTIME, &set, NULL) == 0);
    CHECK(timer_settime(silent, 0, &(struct itimerspec){{0, 0}, {0, STEP}}, NULL) == 0);
    while (told[SIGUSR1] + overruns < 5) burn();
    CHECK(of_clock(clock) - before >= STEP + 4 * kTick);
    CHECK(timer_gettime(timer, &now) == 0 && ns(now.it_interval) == kTick && ns(now.it_value) > 0 && ns(now.it_value) <= kTick);
    CHECK(timer_gettime(silent, &now) == 0 && ns(now.it_value) == 0);
    CHECK(timer_settime(timer, 0, &(struct itimerspec){0}, &now) == 0 && ns(now.it_interval) == kTick);
    CHECK(timer_delete(timer) == 0 && timer_delete(silent) == 0);
    printf("timers of clock %d\n", i);
  }
}

// SIGXCPU each second from the lower limit on, SIGKILL at the upper one. The child's time begins at 0.
static void limit(void) {
  const pid_t pid = fork();
  if (pid == 0) {
    struct sigaction action = {.sa_sigaction = count, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(SIGXCPU, &action, NULL) == 0);
    CHECK(setrlimit(RLIMIT_CPU, &(struct rlimit){1, 2}) == 0);
    while (!told[SIGXCPU]) burn();
    CHECK(of_process() >= STEP);  // natively, too, by samples
    for (;;) burn();
  }
  int status;
  struct rusage usage;
  CHECK(wait4(pid, &status, 0, &usage) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  CHECK(of_timeval(usage.ru_utime) + of_timeval(usage.ru_stime) >= STEP);
  printf("a limit: SIGXCPU, then SIGKILL\n");
}

// The thread's own; others keep theirs, new ones have their creator's.
static void* priority_of(void* unused) {
  (void)unused;
  cpu_set_t set;
  CHECK(sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) == 1);
  return (void*)(long)getpriority(PRIO_PROCESS, 0);
}
static void* nicer(void* only) {
  CHECK(sched_setaffinity(0, sizeof(cpu_set_t), only) == 0 && sched_getcpu() >= 0);
  errno = 0;
  const int before = getpriority(PRIO_PROCESS, 0);
  CHECK(errno == 0 && setpriority(PRIO_PROCESS, gettid(), before + 3) == 0 && getpriority(PRIO_PROCESS, 0) == before + 3);
  pthread_t thread;
  void* theirs;
  CHECK(pthread_create(&thread, NULL, priority_of, NULL) == 0 && pthread_join(thread, &theirs) == 0 && (long)theirs == before + 3);
  return NULL;
}
static void priorities(void) {
  cpu_set_t all, only, now;
  CHECK(sched_getaffinity(0, sizeof all, &all) == 0 && CPU_COUNT(&all) > 0);
  int last = CPU_SETSIZE - 1;
  while (!CPU_ISSET(last, &all)) --last;
  CPU_ZERO(&only);
  CPU_SET(last, &only);
  errno = 0;
  const int before = getpriority(PRIO_PROCESS, 0);
  CHECK(errno == 0);
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, nicer, &only) == 0 && pthread_join(thread, NULL) == 0);
  CHECK(getpriority(PRIO_PROCESS, 0) == before && sched_getaffinity(0, sizeof now, &now) == 0 && CPU_EQUAL(&now, &all));
  CPU_ZERO(&now);
  CHECK_ERRNO(sched_setaffinity(0, sizeof now, &now), EINVAL);
  // In a process of its own: a user could not get it back.
  const pid_t pid = fork();
  if (pid == 0) {
    CHECK(sched_setaffinity(0, sizeof only, &only) == 0);
    for (int i = 0; i < 20; ++i, burn()) CHECK(sched_getcpu() == last);
    CHECK(sched_setaffinity(0, sizeof all, &all) == 0 && sched_getaffinity(0, sizeof now, &now) == 0 && CPU_EQUAL(&now, &all));
    nicer(&only);
    _exit(0);
  }
  int status;
  CHECK(waitpid(pid, &status, 0) == pid && status == 0);
  printf("nice values and processors\n");
}

// For whoever looks from outside: computes with nice value 7, on the last of its processors, until the file is there.
static void show(const char* until) {
  cpu_set_t all;
  CHECK(sched_getaffinity(0, sizeof all, &all) == 0);
  int last = CPU_SETSIZE - 1;
  while (!CPU_ISSET(last, &all)) --last;
  CPU_ZERO(&all);
  CPU_SET(last, &all);
  CHECK(sched_setaffinity(0, sizeof all, &all) == 0 && setpriority(PRIO_PROCESS, 0, 7) == 0);
  printf("%d\n", last);
  fflush(stdout);
  while (access(until, F_OK) != 0) burn();
}

int main(int argc, char** argv) {
  if (argc == 2 && strcmp(argv[1], "after_exec") == 0) return of_process() >= STEP && of_usage(RUSAGE_CHILDREN) >= STEP - kTick ? 0 : 2;
  if (argc == 3 && strcmp(argv[1], "show") == 0) return show(argv[2]), 0;
  clocks();
  others();
  children();
  timers();
  limit();
  priorities();
  return 0;
}
