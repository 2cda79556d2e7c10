// Locked memory and signals that wait: counted, within RLIMIT_MEMLOCK and RLIMIT_SIGPENDING.
#define _GNU_SOURCE
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum { kPage = 4096, kUser = 4331 };  // nobody else's: other tests ask for all processes of theirs

static void limit(int resource, rlim_t most) {
  struct rlimit l;
  CHECK(getrlimit(resource, &l) == 0);
  l.rlim_cur = most < l.rlim_max ? most : l.rlim_max;
  CHECK(setrlimit(resource, &l) == 0);
}

// A number behind a name in /proc/self/status.
static long status(const char* name) {
  static char text[8192];
  int f = open("/proc/self/status", O_RDONLY);
  ssize_t n = read(f, text, sizeof text - 1);
  CHECK(f >= 0 && n > 0);
  text[n] = 0;
  close(f);
  const char* at = strstr(text, name);
  CHECK(at);
  return atol(at + strlen(name));
}
static long locked(void) { return status("VmLck:") / 4; }  // in pages

static char* map(size_t pages, int flags) {
  return mmap(NULL, pages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
}

static void ends_well(pid_t child) {
  int how;
  CHECK(waitpid(child, &how, 0) == child && how == 0);
}

static void counts(void) {
  char* p = map(8, 0);
  unsigned char there[8];
  CHECK(p != MAP_FAILED && locked() == 0);
  CHECK(mlock(p + kPage + 5, 2 * kPage) == 0 && locked() == 3);  // whole pages
  CHECK(mincore(p, 8 * kPage, there) == 0 && there[1] && there[2] && there[3]);
  CHECK(mlock(p + kPage, kPage) == 0 && locked() == 3);
  memset(p, 7, 8 * kPage);
  CHECK_ERRNO(madvise(p + kPage, kPage, MADV_DONTNEED), EINVAL);
  CHECK_ERRNO(madvise(p, 8 * kPage, MADV_DONTNEED), EINVAL);  // up to what is locked
  CHECK_ERRNO(madvise(p + 2 * kPage, kPage, MADV_FREE), EINVAL);
  CHECK_ERRNO(madvise(p + 2 * kPage, kPage, MADV_COLD), EINVAL);
  CHECK(madvise(p, kPage, MADV_COLD) == 0);
  CHECK(p[0] == 0 && p[kPage] == 7 && p[4 * kPage] == 7);
  CHECK(munlock(p + 2 * kPage, kPage) == 0 && locked() == 2);
  CHECK(madvise(p + 2 * kPage, kPage, MADV_DONTNEED) == 0 && p[2 * kPage] == 0);
  CHECK(munmap(p + 3 * kPage, kPage) == 0 && locked() == 1);
  CHECK_ERRNO(mlock(p + 2 * kPage, 2 * kPage), ENOMEM);  // a hole
  CHECK_ERRNO(munlock(p + 2 * kPage, 2 * kPage), ENOMEM);
  CHECK_ERRNO(mlock2(p, kPage, 8), EINVAL);
  CHECK(mlock2(p + 5 * kPage, kPage, MLOCK_ONFAULT) == 0 && munmap(p, 8 * kPage) == 0 && locked() == 0);

  p = map(4, MAP_LOCKED);
  CHECK(p != MAP_FAILED && locked() == 4);
  pid_t child = fork();
  if (child == 0) {  // has no locks, but its memory
    CHECK(locked() == 0 && madvise(p, kPage, MADV_DONTNEED) == 0);
    _exit(0);
  }
  ends_well(child);
  CHECK(locked() == 4 && (p = mremap(p, 4 * kPage, 6 * kPage, MREMAP_MAYMOVE)) != MAP_FAILED && locked() == 6);
  CHECK(mincore(p, 6 * kPage, there) == 0 && there[5]);
  CHECK(munmap(p, 6 * kPage) == 0 && locked() == 0);
  char* none = mmap(NULL, kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK_ERRNO(mlock(none, kPage), ENOMEM);
  CHECK(munmap(none, kPage) == 0);
  puts("locked memory is counted, and stays");
}

static void everything(void) {
  CHECK_ERRNO(mlockall(0), EINVAL);
  CHECK_ERRNO(mlockall(MCL_ONFAULT), EINVAL);
  CHECK_ERRNO(mlockall(8), EINVAL);
  CHECK(mlockall(MCL_FUTURE) == 0 && locked() == 0);
  char* p = map(2, 0);
  unsigned char there[2];
  CHECK(p != MAP_FAILED && locked() == 2 && mincore(p, 2 * kPage, there) == 0 && there[0] && there[1]);
  pid_t child = fork();
  if (child == 0) {  // of what was to come, nothing either
    CHECK(map(2, 0) != MAP_FAILED && locked() == 0);
    CHECK(mlockall(MCL_FUTURE) == 0);
    execl("/proc/self/exe", "locked", "executed", NULL);
    _exit(1);
  }
  ends_well(child);
  char* end = sbrk(3 * kPage);
  CHECK(end != (void*)-1 && locked() >= 5);
  CHECK(munlockall() == 0 && locked() == 0 && map(1, 0) != MAP_FAILED && locked() == 0);
  CHECK(mlockall(MCL_CURRENT) == 0 && locked() > 3);
  const long all = locked();
  CHECK(map(1, 0) != MAP_FAILED && locked() == all && munlockall() == 0 && locked() == 0);
  puts("so is all that a process has, and will have");
}

static void becomes_somebody(void) {
  if (getuid() != 0) return;
  CHECK(setgroups(0, NULL) == 0 && setresgid(kUser, kUser, kUser) == 0 && setresuid(kUser, kUser, kUser) == 0);
}

static void limits(void) {
  char* p = map(16, 0);
  limit(RLIMIT_MEMLOCK, 4 * kPage);
  CHECK_ERRNO(mlock(p, 5 * kPage), ENOMEM);
  CHECK(mlock(p, 3 * kPage) == 0 && mlock(p + kPage, 3 * kPage) == 0 && locked() == 4);
  CHECK_ERRNO(mlock(p + 8 * kPage, kPage), ENOMEM);
  CHECK(mlock(p, 4 * kPage) == 0);
  CHECK(map(1, MAP_LOCKED) == MAP_FAILED && errno == EAGAIN);
  CHECK_ERRNO(mlockall(MCL_CURRENT), ENOMEM);
  CHECK(munlock(p, 2 * kPage) == 0);
  char* q = map(2, MAP_LOCKED);
  CHECK(q != MAP_FAILED && locked() == 4);
  CHECK(mremap(q, 2 * kPage, 3 * kPage, MREMAP_MAYMOVE) == MAP_FAILED && errno == EAGAIN);
  CHECK(mlockall(MCL_FUTURE) == 0 && map(1, 0) == MAP_FAILED && errno == EAGAIN);
  void* end = sbrk(0);
  CHECK(sbrk(100 * kPage) == (void*)-1 && sbrk(0) == end);
  CHECK(munlockall() == 0 && locked() == 0);
  limit(RLIMIT_MEMLOCK, 0);
  CHECK_ERRNO(mlock(p, kPage), EPERM);
  CHECK_ERRNO(mlockall(MCL_CURRENT), EPERM);
  CHECK(map(1, MAP_LOCKED) == MAP_FAILED && errno == EPERM);
  CHECK(munlock(p, kPage) == 0 && munlockall() == 0);
  puts("within a limit");
}

static void waiting_signals(void) {
  sigset_t all, none;
  sigfillset(&all), sigemptyset(&none);
  CHECK(sigprocmask(SIG_BLOCK, &all, NULL) == 0);
  limit(RLIMIT_SIGPENDING, 5);
  int sent = 0;
  // A user who runs other programs may have some there.
  while (sent < 100 && sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = sent}) == 0) ++sent;
  CHECK(errno == EAGAIN && sent <= 5);
  if (getuid() == kUser) CHECK(sent == 5 && status("SigQ:") == 5);
  CHECK_ERRNO(sigqueue(getpid(), SIGRTMAX, (union sigval){0}), EAGAIN);
  CHECK(kill(getpid(), SIGRTMAX) == 0);                                // is told, without what comes with it
  CHECK(kill(getpid(), SIGUSR1) == 0 && sigqueue(getpid(), SIGUSR2, (union sigval){0}) == 0);
  siginfo_t info;
  const struct timespec at_once = {0, 0};
  for (int i = 0; i < sent; ++i) {
    sigset_t one = none;
    sigaddset(&one, SIGRTMIN);
    CHECK(sigtimedwait(&one, &info, &at_once) == SIGRTMIN && info.si_value.sival_int == i);
  }
  CHECK(sigtimedwait(&all, &info, &at_once) == SIGUSR1 && info.si_pid == getpid());
  CHECK(sigtimedwait(&all, &info, &at_once) == SIGUSR2);
  CHECK(sigtimedwait(&all, &info, &at_once) == SIGRTMAX && info.si_code == SI_USER);
  CHECK_ERRNO(sigtimedwait(&all, &info, &at_once), EAGAIN);
  CHECK(sigqueue(getpid(), SIGRTMIN, (union sigval){0}) == 0 || getuid() != kUser);
  puts("as signals wait");
}

int main(int argc, char** argv) {
  (void)argv;
  if (argc == 2) return locked() == 0 && map(1, 0) != MAP_FAILED && locked() == 0 ? 0 : 1;
  limit(RLIMIT_MEMLOCK, 8 << 20);
  counts();
  everything();
  becomes_somebody();
  limits();
  waiting_signals();
  return 0;
}
