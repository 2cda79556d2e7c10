// Files of /proc/<pid>: what they tell, and what writing them does.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum { kPage = 4096, kUser = 4351 };  // nobody else's: other tests ask for all processes of theirs

static char text[1 << 20];
static const char* content(const char* path) {
  int f = open(path, O_RDONLY);
  CHECK(f >= 0);
  size_t length = 0;
  for (ssize_t n; (n = read(f, text + length, sizeof text - 1 - length)) > 0;) length += (size_t)n;
  text[length] = 0;
  close(f);
  return text;
}
static long number(const char* path, const char* name) {
  const char* at = strstr(content(path), name);
  CHECK(at);
  return atol(at + strlen(name));
}
static int put(const char* path, const char* what) {
  int f = open(path, O_WRONLY | O_TRUNC);
  CHECK(f >= 0);
  const ssize_t n = write(f, what, strlen(what));
  int saved = errno;
  close(f);
  errno = saved;
  return n == (ssize_t)strlen(what) ? 0 : -1;
}
static void ends_well(pid_t child) {
  int status;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void out_of_memory(void) {
  const char* path = "/proc/self/oom_score_adj";
  const int before = atoi(content(path));
  CHECK(put(path, "900\n") == 0 && atoi(content(path)) == 900);
  CHECK_ERRNO(put(path, "1001"), EINVAL);
  CHECK_ERRNO(put(path, "much"), EINVAL);
  pid_t child = fork();
  if (child == 0) {
    int f = open(path, O_RDWR);
    CHECK(atoi(content(path)) == 900 && f >= 0);
    if (getuid() == 0) CHECK(setresgid(kUser, kUser, kUser) == 0 && setresuid(kUser, kUser, kUser) == 0);
    CHECK(write(f, "950", 3) == 3);
    if (getuid() == kUser) CHECK_ERRNO(write(f, "-999", 4), EACCES);
    char now[16] = {0};
    CHECK(pread(f, now, sizeof now - 1, 0) > 0 && atoi(now) == 950);
    _exit(0);
  }
  ends_well(child);
  CHECK(atoi(content(path)) == 900 && atoi(content("/proc/self/oom_score")) >= 0);
  char back[16];
  snprintf(back, sizeof back, "%d", before);
  if (put(path, back) != 0) CHECK(errno == EACCES);
}

static pthread_barrier_t barrier;
static volatile pid_t other;
static void* named(void* unused) {
  other = gettid();
  pthread_barrier_wait(&barrier);
  pthread_barrier_wait(&barrier);
  char name[16];
  CHECK(pthread_getname_np(pthread_self(), name, sizeof name) == 0 && !strcmp(name, "of a thread tha"));
  return unused;
}

static void names(void) {
  char path[64], name[16];
  pthread_t thread;
  CHECK(put("/proc/self/comm", "first") == 0 && !strcmp(content("/proc/self/comm"), "first\n"));
  CHECK(pthread_getname_np(pthread_self(), name, sizeof name) == 0 && !strcmp(name, "first"));
  CHECK(put("/proc/self/comm", "two\nlines\\") == 0 && strstr(content("/proc/self/status"), "Name:\ttwo\\nlines\\\\\n"));
  CHECK(put("/proc/self/comm", "first") == 0);
  CHECK(pthread_barrier_init(&barrier, NULL, 2) == 0 && pthread_create(&thread, NULL, named, NULL) == 0);
  pthread_barrier_wait(&barrier);
  snprintf(path, sizeof path, "/proc/self/task/%d/comm", other);
  CHECK(put(path, "of a thread that is long") == 0 && !strcmp(content(path), "of a thread tha\n"));
  CHECK(!strcmp(content("/proc/self/comm"), "first\n"));
  snprintf(path, sizeof path, "/proc/%d/status", other);  // which is in no list
  CHECK(number(path, "Tgid:") == getpid() && number(path, "\nPid:") == other);
  snprintf(path, sizeof path, "/proc/self/task/%d/oom_score_adj", other);
  CHECK(access(path, R_OK | W_OK) == 0);
  const char* files[] = {"limits", "io", "smaps", "smaps_rollup", "fdinfo/0", "ns/mnt", "net/unix", "schedstat"};
  for (unsigned i = 0; i < sizeof files / sizeof *files; ++i) {
    snprintf(path, sizeof path, "/proc/self/task/%d/%s", other, files[i]);
    int f = open(path, O_RDONLY);
    CHECK(f >= 0);
    close(f);
  }
  pthread_barrier_wait(&barrier);
  pthread_join(thread, NULL);
  pid_t child = fork();
  if (child == 0) {
    snprintf(path, sizeof path, "/proc/%d/comm", getppid());
    CHECK_ERRNO(put(path, "another's"), EINVAL);
    snprintf(path, sizeof path, "/proc/%d/environ", getppid());
    if (getuid() == 0) {
      CHECK(setresgid(kUser, kUser, kUser) == 0 && setresuid(kUser, kUser, kUser) == 0);
      CHECK_ERRNO(open(path, O_RDONLY), EACCES);
    }
    _exit(0);
  }
  ends_well(child);
  CHECK(*content("/proc/1/comm"));
  struct stat st;
  CHECK(stat("/proc/self/comm", &st) == 0 && st.st_mode == (S_IFREG | 0644) && st.st_uid == geteuid() && st.st_gid == getegid());
  CHECK(stat("/proc/self/environ", &st) == 0 && st.st_mode == (S_IFREG | 0400));
}

static void descriptors(void) {
  char path[64], flags[32];
  int f = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  CHECK(f >= 0 && lseek(f, 77, SEEK_SET) == 77);
  struct stat st;
  CHECK(fstat(f, &st) == 0);
  snprintf(path, sizeof path, "/proc/self/fdinfo/%d", f);
  snprintf(flags, sizeof flags, "flags:\t0%o\n", O_CLOEXEC | 0100000);  // O_LARGEFILE
  CHECK(number(path, "pos:") == 77 && strstr(content(path), flags) && number(path, "mnt_id:") > 0);
  close(f);
  CHECK_ERRNO(open(path, O_RDONLY), ENOENT);
}

static void memory(void) {
  char* p = mmap(NULL, 16 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(p != MAP_FAILED);
  for (int i = 0; i < 3; ++i) p[i * kPage] = (char)(40 + i);
  char start[32];
  snprintf(start, sizeof start, "%lx-", (unsigned long)p);
  const char* region = strstr(content("/proc/self/smaps"), start);
  CHECK(region);
  const long size = atol(strstr(region, "\nSize:") + 6), resident = atol(strstr(region, "\nRss:") + 5);
  CHECK(size >= 64 && resident >= 12 && resident <= size && atol(strstr(region, "\nAnonymous:") + 11) == resident);
  CHECK(!strncmp(strstr(region, "\nVmFlags:"), "\nVmFlags: rd wr ", 16));
  CHECK(strstr(content("/proc/self/smaps_rollup"), "[rollup]\nRss:"));
  CHECK(number("/proc/self/smaps_rollup", "\nRss:") >= resident && number("/proc/self/smaps_rollup", "\nLocked:") == 0);
  CHECK(mlock(p, 4 * kPage) == 0 && number("/proc/self/smaps_rollup", "\nLocked:") >= 16 && munlock(p, 4 * kPage) == 0);
  CHECK(put("/proc/self/clear_refs", "1\n") == 0 && p[kPage] == 41);

  int f = open("/proc/self/mem", O_RDONLY);
  char c[4] = {0};
  CHECK(f >= 0 && pread(f, c, 1, (off_t)(p + kPage)) == 1 && c[0] == 41);
  CHECK(lseek(f, (off_t)(p + 2 * kPage), SEEK_SET) > 0 && read(f, c, 2) == 2 && c[0] == 42 && read(f, c, 1) == 1 && c[0] == 0);
  CHECK(munmap(p + 8 * kPage, kPage) == 0);
  CHECK_ERRNO(pread(f, c, 1, (off_t)(p + 8 * kPage)), EIO);
  close(f);

  uint64_t words[2];
  f = open("/proc/self/pagemap", O_RDONLY);
  CHECK(f >= 0 && pread(f, words, sizeof words, (off_t)((uintptr_t)p / kPage * 8)) == sizeof words && words[0] >> 63 && words[1] >> 63);
  CHECK(pread(f, words, 8, (off_t)((uintptr_t)(p + 8 * kPage) / kPage * 8)) == 8 && !(words[0] >> 63));
  CHECK_ERRNO(pread(f, words, 7, 0), EINVAL);
  close(f);
}

static void the_rest(void) {
  struct rlimit limit;
  char line[128], path[64];
  CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  limit.rlim_cur = 33;
  CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  snprintf(line, sizeof line, "\nMax open files            33                   %-20lu files     \n", (unsigned long)limit.rlim_max);
  CHECK(strstr(content("/proc/self/limits"), line) && strstr(text, "\nMax realtime timeout "));

  const long read_before = number("/proc/self/io", "rchar:"), calls_before = number("/proc/self/io", "syscr:");
  int f = open("/dev/zero", O_RDONLY), sink = open("/dev/null", O_WRONLY);
  for (int i = 0; i < 10; ++i) CHECK(read(f, line, 100) == 100);
  CHECK(number("/proc/self/io", "rchar:") >= read_before + 1000 && number("/proc/self/io", "syscr:") >= calls_before + 10);
  const long written = number("/proc/self/io", "wchar:");
  CHECK(write(sink, line, 100) == 100 && number("/proc/self/io", "wchar:") == written + 100);
  close(f), close(sink);

  struct stat mine, theirs;
  const ssize_t n = readlink("/proc/self/ns/mnt", line, sizeof line - 1);
  CHECK(n > 0 && !strncmp(line, "mnt:[", 5));
  pid_t child = fork();
  if (child == 0) {
    snprintf(path, sizeof path, "/proc/%d/ns/mnt", getppid());
    CHECK(stat(path, &theirs) == 0 && stat("/proc/self/ns/mnt", &mine) == 0 && mine.st_ino == theirs.st_ino && mine.st_dev == theirs.st_dev);
    CHECK(stat("/proc/self/ns/net", &theirs) == 0 && mine.st_ino != theirs.st_ino);
    cpu_set_t all, one;
    CHECK(sched_getaffinity(0, sizeof all, &all) == 0);
    int last = CPU_SETSIZE - 1;
    while (!CPU_ISSET(last, &all)) --last;
    CPU_ZERO(&one);
    CPU_SET(last, &one);
    CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
    snprintf(line, sizeof line, "\nCpus_allowed_list:\t%d\n", last);
    CHECK(strstr(content("/proc/self/status"), line));
    _exit(0);
  }
  ends_well(child);
}

int main(void) {
  out_of_memory();
  names();
  descriptors();
  memory();
  the_rest();
  puts("processes are told of");
  return 0;
}
