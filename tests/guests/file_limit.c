// RLIMIT_FSIZE: what would make a file larger is cut to the limit, and refused with SIGXFSZ and EFBIG there.
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum { kLimit = 100 };

static volatile sig_atomic_t signals;
static void count(int signal) {
  (void)signal;
  ++signals;
}

// Refused, and the signal came once.
#define CHECK_REFUSED(expression)     \
  do {                                \
    signals = 0;                      \
    CHECK_ERRNO(expression, EFBIG);   \
    CHECK(signals == 1);              \
  } while (0)

static void limit_to(rlim_t bytes) {
  struct rlimit l;
  CHECK(getrlimit(RLIMIT_FSIZE, &l) == 0);
  l.rlim_cur = bytes;
  CHECK(setrlimit(RLIMIT_FSIZE, &l) == 0);
}

static long size_of(int f) { return (long)lseek(f, 0, SEEK_END); }

static char bytes[4 * kLimit];

static void writes(int f) {
  CHECK(ftruncate(f, 0) == 0 && lseek(f, 0, SEEK_SET) == 0);
  signals = 0;
  CHECK(write(f, bytes, 60) == 60 && write(f, bytes, 60) == 40 && signals == 0);
  CHECK_REFUSED(write(f, bytes, 1));
  CHECK(write(f, bytes, 0) == 0);
  CHECK(pwrite(f, bytes, 3, 98) == 2 && signals == 1);
  CHECK_REFUSED(pwrite(f, bytes, 1, kLimit));
  struct iovec v[3] = {{bytes, 5}, {bytes, 7}, {bytes, 9}};
  CHECK(pwritev(f, v, 3, 90) == 10 && pwritev(f, v, 3, 97) == 3 && pwritev(f, v, 3, 10) == 21);
  CHECK_REFUSED(pwritev(f, v, 3, 4000));
  CHECK(lseek(f, 99, SEEK_SET) == 99 && writev(f, v, 3) == 1);
  CHECK_REFUSED(writev(f, v, 3));
  CHECK_REFUSED(pwritev2(f, v, 3, 0, RWF_APPEND));
  CHECK(fcntl(f, F_SETFL, O_APPEND) == 0 && lseek(f, 0, SEEK_SET) == 0);
  CHECK_REFUSED(write(f, bytes, 1));
  CHECK(fcntl(f, F_SETFL, 0) == 0);
  // What is there already may be written, and a larger file cut.
  CHECK(size_of(f) == kLimit);
  CHECK_REFUSED(ftruncate(f, kLimit + 1));
  limit_to(50);
  signals = 0;
  CHECK(ftruncate(f, 80) == 0 && pwrite(f, bytes, 80, 0) == 50 && signals == 0 && size_of(f) == 80);
  limit_to(kLimit);
}

static void sizes(const char* path) {
  CHECK(truncate(path, kLimit) == 0);
  CHECK_REFUSED(truncate(path, kLimit + 1));
  int m = memfd_create("limited", 0);
  CHECK(m >= 0 && ftruncate(m, kLimit) == 0);
  CHECK_REFUSED(ftruncate(m, kLimit + 1));
  CHECK_REFUSED(fallocate(m, 0, 50, 51));
  signals = 0;
  CHECK(fallocate(m, 0, 0, kLimit) == 0 && signals == 0 && size_of(m) == kLimit);
  int reads = open(path, O_RDONLY);
  CHECK_ERRNO(ftruncate(reads, 5000), EINVAL);
  CHECK(signals == 0);
  close(reads);
  writes(m);
  close(m);
}

static void copies(int from, int to) {
  int p[2];
  CHECK(pipe(p) == 0 && ftruncate(to, 0) == 0 && lseek(to, 70, SEEK_SET) == 70 && lseek(from, 0, SEEK_SET) == 0);
  CHECK(sendfile(to, from, NULL, 20) == 20 && sendfile(to, from, NULL, kLimit) == 10);
  CHECK_REFUSED(sendfile(to, from, NULL, 1));
  loff_t at = 99;
  CHECK(write(p[1], bytes, 60) == 60);
  CHECK(splice(p[0], NULL, to, &at, 1, 0) == 1 && at == kLimit);
  CHECK_REFUSED(splice(p[0], NULL, to, &at, 1, 0));
  loff_t source = 0;
  CHECK_REFUSED(copy_file_range(from, &source, to, &at, 1, 0));
  CHECK(size_of(to) == kLimit);
  // Pipes have no size.
  signals = 0;
  CHECK(write(p[1], bytes, 4 * kLimit) == 4 * kLimit && signals == 0);
  close(p[0]), close(p[1]);
}

static int status_of(pid_t child) {
  int status;
  CHECK(waitpid(child, &status, 0) == child);
  return status;
}

int main(int argc, char** argv) {
  struct rlimit none = {0, 0};
  if (argc == 2 && !strcmp(argv[1], "executed")) return getrlimit(RLIMIT_FSIZE, &none) == 0 && none.rlim_cur == kLimit ? 0 : 1;
  CHECK(argc == 2 && chdir(argv[1]) == 0);
  int source = open("file_limit.source", O_RDWR | O_CREAT | O_TRUNC, 0600), f = open("file_limit", O_RDWR | O_CREAT | O_TRUNC, 0600);
  CHECK(source >= 0 && f >= 0 && write(source, bytes, sizeof bytes) == (ssize_t)sizeof bytes);
  limit_to(kLimit);
  CHECK(signal(SIGXFSZ, count) != SIG_ERR);
  writes(f);
  sizes("file_limit");
  copies(source, f);
  puts("every way to grow a file ends at the limit");

  CHECK(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
  CHECK_ERRNO(pwrite(f, bytes, 1, kLimit), EFBIG);
  CHECK(signal(SIGXFSZ, SIG_DFL) != SIG_ERR);
  pid_t child = fork();
  if (child == 0) {
    struct rlimit no_core = {0, 0};
    CHECK(setrlimit(RLIMIT_CORE, &no_core) == 0);
    pwrite(f, bytes, 1, kLimit);
    _exit(0);
  }
  int status = status_of(child);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGXFSZ);
  child = fork();
  if (child == 0) {
    execl("/proc/self/exe", "file_limit", "executed", NULL);
    _exit(2);
  }
  CHECK(status_of(child) == 0);
  puts("children and programs have their parent's limit");
  return 0;
}
