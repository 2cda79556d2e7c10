// The vDSO: found as C libraries find it, and what its functions say lies between what two system calls say.
//   vdso               everything, over threads, fork and execve as well
//   vdso count NUMBER  calls clock_gettime so often, and nothing else
//   vdso resume        waits for its input; then the clocks that count from the start have stood still meanwhile
#define _GNU_SOURCE
#include "check.h"
#include "isa.h"

#include <elf.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int (*vdso_clock_gettime)(clockid_t, struct timespec*);
static int (*vdso_clock_getres)(clockid_t, struct timespec*);
static int (*vdso_gettimeofday)(struct timeval*, void*);
static time_t (*vdso_time)(time_t*);
static int (*vdso_getcpu)(unsigned*, unsigned*, void*);

// --- finding it ---

static uint32_t elf_hash(const char* name) {
  uint32_t h = 0;
  for (; *name; name++) {
    h = (h << 4) + (unsigned char)*name;
    const uint32_t high = h & 0xf0000000;
    h = (h ^ high >> 24) & ~high;
  }
  return h;
}

static const char* image;
static const Elf64_Sym* symbols;
static const Elf64_Half* versions;
static const Elf64_Verdef* definitions;
static const uint32_t* hash;
static const char* names;

static void* find(const char* name) {
  for (uint32_t i = hash[2 + elf_hash(name) % hash[0]]; i; i = hash[2 + hash[0] + i]) {
    if (strcmp(names + symbols[i].st_name, name) || symbols[i].st_shndx == SHN_UNDEF) continue;
    CHECK(ELF64_ST_TYPE(symbols[i].st_info) == STT_FUNC);
    const Elf64_Verdef* d = definitions;
    while ((d->vd_ndx & 0x7fff) != (versions[i] & 0x7fff)) {
      CHECK(d->vd_next);
      d = (const void*)((const char*)d + d->vd_next);
    }
    const Elf64_Verdaux* aux = (const void*)((const char*)d + d->vd_aux);
    CHECK(!strcmp(names + aux->vda_name, ISA_VDSO_VERSION) && d->vd_hash == elf_hash(ISA_VDSO_VERSION));
    return (void*)(image + symbols[i].st_value);
  }
  return NULL;
}

static void find_all(void) {
  image = (const char*)getauxval(AT_SYSINFO_EHDR);
  CHECK(image && !memcmp(image, ELFMAG, SELFMAG));
  const Elf64_Ehdr* header = (const void*)image;
  CHECK(header->e_type == ET_DYN && header->e_phentsize == sizeof(Elf64_Phdr));
  const Elf64_Phdr* segment = (const void*)(image + header->e_phoff);
  const Elf64_Dyn* dynamic = NULL;
  for (int i = 0; i < header->e_phnum; i++)
    if (segment[i].p_type == PT_DYNAMIC) dynamic = (const void*)(image + segment[i].p_vaddr);
  CHECK(dynamic);
  const char* file = NULL;
  for (int pass = 0; pass < 2; pass++)
    for (const Elf64_Dyn* d = dynamic; d->d_tag != DT_NULL; d++) {
      const void* at = image + d->d_un.d_ptr;
      if (d->d_tag == DT_STRTAB) names = at;
      if (d->d_tag == DT_SYMTAB) symbols = at;
      if (d->d_tag == DT_HASH) hash = at;
      if (d->d_tag == DT_VERSYM) versions = at;
      if (d->d_tag == DT_VERDEF) definitions = at;
      if (d->d_tag == DT_SONAME && names) file = names + d->d_un.d_val;
    }
  CHECK(names && symbols && hash && versions && definitions);
  CHECK(file && !strcmp(file, "linux-vdso.so.1"));
  CHECK((vdso_clock_gettime = find(ISA_VDSO_PREFIX "clock_gettime")));
  CHECK(find("clock_gettime") == (kIsaVdsoHasOldNames ? (void*)vdso_clock_gettime : NULL));
  CHECK((vdso_clock_getres = find(ISA_VDSO_PREFIX "clock_getres")));
  CHECK((vdso_gettimeofday = find(ISA_VDSO_PREFIX "gettimeofday")));
  vdso_time = find(ISA_VDSO_PREFIX "time");
  vdso_getcpu = find(ISA_VDSO_PREFIX "getcpu");
  CHECK(!vdso_time == !kIsaVdsoHasTimeAndCpu && !vdso_getcpu == !kIsaVdsoHasTimeAndCpu);
  CHECK(!find(ISA_VDSO_PREFIX "nothing"));
}

static void check_maps(void) {
  FILE* maps = fopen("/proc/self/maps", "r");
  CHECK(maps);
  char line[512], end[64];
  snprintf(end, sizeof end, "-%lx r--p", (unsigned long)image);
  int code = 0, data = 0;
  while (fgets(line, sizeof line, maps)) {
    unsigned long start;
    if (strstr(line, "[vdso]") && strstr(line, " r-xp ") && sscanf(line, "%lx", &start) == 1) code += start == (unsigned long)image;
    if (strstr(line, "[vvar")) data += strstr(line, end) != NULL;
  }
  fclose(maps);
  CHECK(code == 1 && data == 1);
}

// --- what it says ---

static int64_t nanos(struct timespec t) { return t.tv_sec * INT64_C(1000000000) + t.tv_nsec; }
static int64_t called(clockid_t clock) {
  struct timespec t;
  CHECK(syscall(SYS_clock_gettime, clock, &t) == 0);
  return nanos(t);
}
static int64_t told(clockid_t clock) {
  struct timespec t = {-1, -1};
  CHECK(vdso_clock_gettime(clock, &t) == 0 && t.tv_nsec >= 0 && t.tv_nsec < 1000000000);
  return nanos(t);
}

static const clockid_t told_clocks[] = {CLOCK_REALTIME,         CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_REALTIME_COARSE,
                                        CLOCK_MONOTONIC_COARSE, CLOCK_BOOTTIME,  CLOCK_TAI};

static void check_order(int rounds) {
  for (size_t i = 0; i < sizeof told_clocks / sizeof *told_clocks; i++) {
    const clockid_t clock = told_clocks[i];
    for (int round = 0; round < rounds; round++) {
      const int64_t a = told(clock), b = called(clock), c = told(clock), d = called(clock);
      CHECK(a <= b && b <= c && c <= d);
    }
  }
}

static void check_functions(void) {
  for (clockid_t clock = 0; clock < 13; clock++) {
    struct timespec a, b;
    const long r = syscall(SYS_clock_getres, clock, &a);
    CHECK(vdso_clock_getres(clock, &b) == (r ? -errno : 0));
    CHECK(r || nanos(a) == nanos(b));
    CHECK(vdso_clock_getres(clock, NULL) == (r ? -errno : 0));
  }
  struct timespec t;
  CHECK(vdso_clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t) == 0 && vdso_clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t) == 0);
  CHECK(vdso_clock_gettime(10, &t) == -EINVAL && vdso_clock_gettime(12, &t) == -EINVAL);
  CHECK(vdso_clock_gettime(32 + CLOCK_MONOTONIC, &t) == -EINVAL && vdso_clock_gettime(0x40000000, &t) == -EINVAL);
  CHECK(vdso_clock_gettime(-1, &t) == syscall(SYS_clock_gettime, -1, &t) || errno == EINVAL);
  struct timeval v;
  const int64_t before = called(CLOCK_REALTIME) / 1000;
  CHECK(vdso_gettimeofday(&v, NULL) == 0 && v.tv_usec >= 0 && v.tv_usec < 1000000);
  const int64_t between = v.tv_sec * INT64_C(1000000) + v.tv_usec;
  CHECK(before <= between && between <= called(CLOCK_REALTIME) / 1000);
  struct timezone zone = {-1, -1};
  CHECK(vdso_gettimeofday(&v, &zone) == 0 && zone.tz_dsttime != -1);
  if (!kIsaVdsoHasTimeAndCpu) return;
  const time_t s = called(CLOCK_REALTIME_COARSE) / 1000000000;
  time_t stored = -1;
  const time_t now = vdso_time(&stored);
  CHECK(s <= now && now == stored && vdso_time(NULL) >= now && now <= called(CLOCK_REALTIME_COARSE) / 1000000000);
  unsigned cpu = ~0u, node = ~0u;
  CHECK(vdso_getcpu(&cpu, &node, NULL) == 0 && (long)cpu < sysconf(_SC_NPROCESSORS_CONF) && node < 1024);
}

// Wherever a signal comes, time goes on.
static volatile sig_atomic_t alarms;
static volatile int64_t in_handler;
static void on_alarm(int sig) { (void)sig, alarms = alarms + 1, in_handler = told(CLOCK_MONOTONIC); }
static void check_signals(void) {
  struct sigaction action = {.sa_handler = on_alarm};
  CHECK(sigaction(SIGALRM, &action, NULL) == 0);
  const struct itimerval often = {{0, 2000}, {0, 2000}};
  CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
  int64_t last = 0;
  while (alarms < 50) {
    const int64_t now = told(CLOCK_MONOTONIC);
    CHECK(last <= now);
    last = now;
  }
  const struct itimerval none = {{0, 0}, {0, 0}};
  CHECK(setitimer(ITIMER_REAL, &none, NULL) == 0 && in_handler <= told(CLOCK_MONOTONIC));
}

// Nor does one thread see it go back behind another.
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int64_t latest;
static void* reader(void* rounds) {
  for (intptr_t i = 0; i < (intptr_t)rounds; i++) {
    pthread_mutex_lock(&mutex);
    const int64_t now = i % 7 ? told(CLOCK_MONOTONIC) : called(CLOCK_MONOTONIC);
    CHECK(latest <= now);
    latest = now;
    pthread_mutex_unlock(&mutex);
  }
  return NULL;
}

static struct timespec soon(clockid_t clock) {
  struct timespec t;
  CHECK(vdso_clock_gettime(clock, &t) == 0);
  t.tv_nsec += 50000000;
  if (t.tv_nsec >= 1000000000) t.tv_nsec -= 1000000000, t.tv_sec++;
  return t;
}

// Deadlines are on the clocks that it tells.
static void check_deadlines(void) {
  struct timespec until = soon(CLOCK_MONOTONIC);
  CHECK((errno = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL)) == 0);
  CHECK(told(CLOCK_MONOTONIC) >= nanos(until));
  until = soon(CLOCK_BOOTTIME);
  int fd = timerfd_create(CLOCK_BOOTTIME, 0);
  const struct itimerspec once = {.it_value = until};
  uint64_t times = 0;
  CHECK(fd >= 0 && timerfd_settime(fd, TFD_TIMER_ABSTIME, &once, NULL) == 0 && read(fd, &times, 8) == 8 && times == 1);
  CHECK(told(CLOCK_BOOTTIME) >= nanos(until) && close(fd) == 0);
  until = soon(CLOCK_MONOTONIC);
  uint32_t word = 0;
  CHECK_ERRNO(syscall(SYS_futex, &word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, 0, &until, NULL, ~0u), ETIMEDOUT);
  CHECK(told(CLOCK_MONOTONIC) >= nanos(until));
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
  struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
  timer_t timer;
  CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
  until = soon(CLOCK_MONOTONIC);
  const struct itimerspec then = {.it_value = until};
  CHECK(timer_settime(timer, TIMER_ABSTIME, &then, NULL) == 0 && sigwaitinfo(&set, NULL) == SIGUSR1);
  CHECK(told(CLOCK_MONOTONIC) >= nanos(until) && timer_delete(timer) == 0);
}

// Mostly inside the vDSO, whenever the program is saved.
static atomic_int enough;
static void* spin(void* unused) {
  int64_t last = 0;
  while (!enough) {
    const int64_t now = told(CLOCK_MONOTONIC);
    CHECK(last <= now && (!last || now - last < INT64_C(3600000000000)));
    last = now;
  }
  return unused;
}

static int resume(void) {
  pthread_t threads[2];
  for (int i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, spin, NULL) == 0);
  const int64_t real = told(CLOCK_REALTIME), start = told(CLOCK_MONOTONIC), raw = told(CLOCK_MONOTONIC_RAW), boot = told(CLOCK_BOOTTIME);
  puts("waiting");
  fflush(stdout);
  char line[16];
  CHECK(fgets(line, sizeof line, stdin));  // a second later
  const int64_t went = told(CLOCK_MONOTONIC) - start, really = told(CLOCK_REALTIME) - real;
  CHECK(went >= 0 && told(CLOCK_MONOTONIC_RAW) >= raw && told(CLOCK_BOOTTIME) >= boot);
  fprintf(stderr, "%lld ms of %lld\n", (long long)went / 1000000, (long long)really / 1000000);
  check_order(50);
  check_functions();
  check_deadlines();
  enough = 1;
  for (int i = 0; i < 2; i++) CHECK(pthread_join(threads[i], NULL) == 0);
  puts(really - went > 900000000 ? "stood still" : "went on");
  return 0;
}

int main(int argc, char** argv) {
  find_all();
  if (argc > 2 && !strcmp(argv[1], "count")) {
    int64_t last = 0;
    for (long n = atol(argv[2]); n > 0; n--) {
      const int64_t now = told(CLOCK_MONOTONIC);
      CHECK(last <= now);
      last = now;
    }
    puts("counted");
    return 0;
  }
  if (argc > 1 && !strcmp(argv[1], "resume")) return resume();
  if (argc > 2 && !strcmp(argv[1], "since")) {  // after execve
    CHECK(atoll(argv[2]) <= told(CLOCK_MONOTONIC) && atoll(argv[2]) <= called(CLOCK_MONOTONIC));
    check_order(10);
    return 0;
  }
  check_maps();
  check_order(200);
  check_functions();
  check_signals();
  check_deadlines();
  pthread_t threads[4];
  for (int i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, reader, (void*)2000) == 0);
  for (int i = 0; i < 4; i++) CHECK(pthread_join(threads[i], NULL) == 0);
  char since[32];
  snprintf(since, sizeof since, "%lld", (long long)told(CLOCK_MONOTONIC));
  fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    CHECK(atoll(since) <= told(CLOCK_MONOTONIC));
    check_order(10);
    execl("/proc/self/exe", argv[0], "since", since, NULL);
    _exit(3);
  }
  int status = 0;
  CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
  check_order(10);
  puts("the vDSO tells the time");
  return 0;
}
