// The world around a program: clocks, sleep, identity, limits, random, /proc/self, /dev. Nothing it
// prints depends on the host.
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/times.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "isa.h"

static int64_t ns(struct timespec t) { return t.tv_sec * 1000000000ll + t.tv_nsec; }

static void clocks(void) {
  clockid_t ids[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_BOOTTIME, CLOCK_PROCESS_CPUTIME_ID,
                     CLOCK_THREAD_CPUTIME_ID, CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE};
  struct timespec t, before, after, wish = {.tv_nsec = 3000000}, until;
  for (size_t i = 0; i < sizeof ids / sizeof ids[0]; ++i) {
    CHECK(clock_gettime(ids[i], &t) == 0 && t.tv_nsec >= 0 && t.tv_nsec < 1000000000);
    CHECK(clock_getres(ids[i], &t) == 0 && ns(t) > 0);
  }
  CHECK_ERRNO(clock_gettime(4711, &t), EINVAL);
  struct timeval tv;
  CHECK(gettimeofday(&tv, NULL) == 0 && tv.tv_sec > 1600000000 && time(NULL) - tv.tv_sec <= 1);
  CHECK(clock_gettime(CLOCK_MONOTONIC, &before) == 0 && nanosleep(&wish, NULL) == 0);
  CHECK(clock_gettime(CLOCK_MONOTONIC, &after) == 0 && ns(after) - ns(before) >= 3000000);
  until = after;
  until.tv_nsec += 2000000;
  if (until.tv_nsec >= 1000000000) until.tv_nsec -= 1000000000, ++until.tv_sec;
  CHECK(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == 0);
  CHECK(clock_gettime(CLOCK_MONOTONIC, &after) == 0 && ns(after) >= ns(until));
  wish.tv_nsec = 1000000000;
  CHECK_ERRNO(nanosleep(&wish, NULL), EINVAL);
  struct tms tms;
  CHECK(times(&tms) != -1);
  struct rusage usage;
  CHECK(getrusage(RUSAGE_SELF, &usage) == 0);
  puts("clocks and sleep");
}

static void identity(void) {
  struct utsname name;
  CHECK(uname(&name) == 0 && strcmp(name.sysname, "Linux") == 0 && strcmp(name.machine, ISA_MACHINE) == 0);
  CHECK(atoi(name.release) >= 4);
  CHECK(getpid() > 0 && getppid() >= 0 && syscall(SYS_gettid) == getpid());
  CHECK(syscall((1l << 32) | SYS_getpid) == getpid());  // a number is 32 bits
  CHECK(getuid() == geteuid() && getgid() == getegid());
  CHECK_ERRNO(syscall(SYS_getgroups, -1, NULL), EINVAL);
  if (geteuid() == 0) CHECK(syscall(SYS_setgroups, 0, NULL) == 0);
  else CHECK_ERRNO(syscall(SYS_setgroups, 0, NULL), EPERM);
  CHECK(sysconf(_SC_PAGESIZE) == 4096 && sysconf(_SC_NPROCESSORS_ONLN) >= 1);
  cpu_set_t cpus;
  CHECK(sched_getaffinity(0, sizeof cpus, &cpus) == 0 && CPU_COUNT(&cpus) >= 1);
  CHECK(getauxval(AT_PAGESZ) == 4096 && getauxval(AT_RANDOM) != 0 && getauxval(AT_SECURE) == 0 && getauxval(AT_PHDR) != 0);
  CHECK(strlen((const char*)getauxval(AT_EXECFN)) > 0);
  struct sysinfo info;
  CHECK(sysinfo(&info) == 0 && info.totalram > 0);
  CHECK_ERRNO(syscall(4711), ENOSYS);
  puts("identity");
}

static void limits(void) {
  struct rlimit limit, again;
  CHECK(getrlimit(RLIMIT_STACK, &limit) == 0 && limit.rlim_cur >= 1 << 20);
  CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur >= 64);
  limit.rlim_cur = 64;
  CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0 && getrlimit(RLIMIT_NOFILE, &again) == 0 && again.rlim_cur == 64);
  int opened = 0;
  while (opened < 100 && dup(0) >= 0) ++opened;
  CHECK(errno == EMFILE && opened <= 61);
  for (int fd = 3; fd < 64; ++fd) close(fd);
  limit.rlim_max = 128;
  limit.rlim_cur = 200;
  CHECK_ERRNO(setrlimit(RLIMIT_NOFILE, &limit), EINVAL);
  CHECK_ERRNO(getrlimit(4711, &limit), EINVAL);
  puts("limits");
}

static void randomness(void) {
  unsigned char a[256] = {0}, b[256] = {0};
  CHECK(getrandom(a, sizeof a, 0) == sizeof a && getrandom(b, sizeof b, GRND_NONBLOCK) == sizeof b);
  CHECK(memcmp(a, b, sizeof a) != 0);
  CHECK_ERRNO(getrandom(a, 1, 0x1000), EINVAL);
  puts("getrandom");
}

static size_t slurp(const char* path, char* out, size_t size) {
  int fd = open(path, O_RDONLY);
  CHECK(fd >= 0);
  size_t n = 0;
  for (ssize_t got; n < size - 1 && (got = read(fd, out + n, size - 1 - n)) > 0;) n += (size_t)got;
  out[n] = 0;
  CHECK(close(fd) == 0);
  return n;
}

static void pseudo_files(const char* program) {
  static char text[1 << 20];
  char link[4096] = {0};
  CHECK(readlink("/proc/self/exe", link, sizeof link - 1) > 0);
  CHECK(strcmp(strrchr(link, '/'), strrchr(program, '/')) == 0);
  CHECK(slurp("/proc/self/maps", text, sizeof text) > 0);
  CHECK(strstr(text, "[stack]") && strstr(text, "[heap]") && strstr(text, strrchr(program, '/')) && strstr(text, "r-xp"));
  // The line for this very array says that it may be written.
  int found = 0;
  for (char* line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
    unsigned long from, to;
    char mode[8];
    if (sscanf(line, "%lx-%lx %7s", &from, &to, mode) == 3 && from <= (unsigned long)link && (unsigned long)link < to)
      found = mode[0] == 'r' && mode[1] == 'w';
  }
  CHECK(found);
  // Read again from its beginning, an open file shows how things are now.
  int maps = open("/proc/self/maps", O_RDONLY);
  CHECK(maps >= 0);
  memset(text, 0, sizeof text);
  CHECK(pread(maps, text, sizeof text - 1, 0) > 0);
  void* fresh = mmap(NULL, 4096, PROT_NONE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  char line[32];
  snprintf(line, sizeof line, "%lx-", (unsigned long)fresh);
  CHECK(strstr(text, line) == NULL && read(maps, text, 1) == 1 && lseek(maps, 0, SEEK_SET) == 0);
  for (size_t n = 0, more; (more = (size_t)read(maps, text + n, sizeof text - 1 - n)) > 0; n += more) {
  }
  CHECK(strstr(text, line) != NULL && close(maps) == 0 && munmap(fresh, 4096) == 0);
  CHECK(slurp("/proc/meminfo", text, sizeof text) > 0 && strstr(text, "MemTotal:") && strstr(text, "MemAvailable:"));
  CHECK(slurp("/proc/cpuinfo", text, sizeof text) > 0 && strstr(text, "processor") && strstr(text, ISA_FEATURES));
  CHECK(slurp("/proc/self/cmdline", text, sizeof text) > strlen(program) && strcmp(text, program) == 0);
  CHECK(slurp("/dev/null", text, sizeof text) == 0);
  int zero = open("/dev/zero", O_RDWR), null = open("/dev/null", O_WRONLY), random = open("/dev/urandom", O_RDONLY);
  memset(text, 1, 100);
  CHECK(zero >= 0 && read(zero, text, 100) == 100 && text[0] == 0 && text[99] == 0);
  CHECK(null >= 0 && write(null, text, 100) == 100);
  CHECK(random >= 0 && read(random, text, 100) == 100);
  CHECK(close(zero) == 0 && close(null) == 0 && close(random) == 0);
  CHECK_ERRNO(open("/proc/self/absent", O_RDONLY), ENOENT);
  puts("/proc and /dev");
}

int main(int argc, char** argv) {
  (void)argc;
  free(malloc(1));  // makes a heap
  clocks();
  identity();
  limits();
  randomness();
  pseudo_files(argv[0]);
  return 0;
}
