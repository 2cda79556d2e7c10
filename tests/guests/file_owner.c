// Signal-driven I/O: who owns an open file, and the signals that the owner gets when the file is ready (O_ASYNC).
//   file_owner DIRECTORY           all but the following
//   file_owner DIRECTORY resumes   reads its input in between, to be saved there, and its files' owners stay
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/sockios.h>

#include "check.h"

static int rt;  // SIGRTMIN + 1
static sigset_t watched;

// The next of the watched signals that the calling thread is sent.
static siginfo_t next(void) {
  siginfo_t info;
  const struct timespec most = {60, 0};
  int sig;
  do sig = sigtimedwait(&watched, &info, &most);
  while (sig < 0 && errno == EINTR);
  CHECK(sig > 0);
  return info;
}

static int none(void) {
  const struct timespec soon = {0, 50000000};
  return sigtimedwait(&watched, NULL, &soon) == -1 && errno == EAGAIN;
}

static void expect(int sig, int code, int fd, long band) {
  const siginfo_t info = next();
  CHECK(info.si_signo == sig && info.si_code == code);
  if (code != SI_KERNEL) CHECK(info.si_fd == fd && info.si_band == band);
}
static void readable(int fd) { expect(rt, POLL_IN, fd, POLLIN | POLLRDNORM); }

static void async(int fd, int on) {
  const int flags = fcntl(fd, F_GETFL);
  CHECK(flags >= 0 && fcntl(fd, F_SETFL, on ? flags | O_ASYNC : flags & ~O_ASYNC) == 0);
  CHECK(((fcntl(fd, F_GETFL) & O_ASYNC) != 0) == on);
}
static void put(int fd) { CHECK(write(fd, "x", 1) == 1); }
static void get(int fd) {
  char c;
  CHECK(read(fd, &c, 1) == 1);
}

static struct f_owner_ex owner(int fd) {
  struct f_owner_ex e;
  CHECK(fcntl(fd, F_GETOWN_EX, &e) == 0);
  return e;
}

static void names(const char* directory) {
  char path[4096];
  snprintf(path, sizeof path, "%s/file", directory);
  const int f = open(path, O_RDWR | O_CREAT, 0600);
  CHECK(f >= 0 && fcntl(f, F_GETOWN) == 0 && fcntl(f, F_GETSIG) == 0 && owner(f).type == F_OWNER_TID && owner(f).pid == 0);
  CHECK(fcntl(f, F_SETOWN, getpid()) == 0 && fcntl(f, F_GETOWN) == getpid() && owner(f).type == F_OWNER_PID);
  CHECK(fcntl(f, F_SETOWN, -getpgrp()) == 0 && fcntl(f, F_GETOWN) == -getpgrp() && owner(f).type == F_OWNER_PGRP);
  CHECK(syscall(SYS_fcntl, f, F_GETOWN, 0) == -getpgrp() || errno == getpgrp());
  struct f_owner_ex e = {F_OWNER_TID, (pid_t)syscall(SYS_gettid)};
  CHECK(fcntl(f, F_SETOWN_EX, &e) == 0 && owner(f).type == F_OWNER_TID && owner(f).pid == e.pid);
  e.type = 3;
  CHECK_ERRNO(fcntl(f, F_SETOWN_EX, &e), EINVAL);
  e = (struct f_owner_ex){F_OWNER_PID, 4194303};
  CHECK_ERRNO(fcntl(f, F_SETOWN_EX, &e), ESRCH);
  CHECK_ERRNO(fcntl(f, F_SETOWN_EX, wild_address), EFAULT);
  CHECK_ERRNO(fcntl(f, F_GETOWN_EX, wild_address), EFAULT);
  CHECK_ERRNO(fcntl(f, F_SETOWN, 4194303), ESRCH);
  CHECK_ERRNO(fcntl(f, F_SETOWN, -4194303), ESRCH);
  CHECK_ERRNO(fcntl(f, F_SETOWN, (int)0x80000000), EINVAL);
  CHECK(owner(f).type == F_OWNER_TID);  // errors change nothing
  CHECK(fcntl(f, F_SETSIG, rt) == 0 && fcntl(f, F_GETSIG) == rt && fcntl(f, F_SETSIG, 0) == 0 && fcntl(f, F_GETSIG) == 0);
  CHECK_ERRNO(fcntl(f, F_SETSIG, 65), EINVAL);
  CHECK_ERRNO(fcntl(f, F_SETSIG, -1), EINVAL);
  CHECK(fcntl(f, F_SETOWN, 0) == 0 && fcntl(f, F_GETOWN) == 0);
  // The owner belongs to the open file, and goes with the process.
  const int copy = dup(f);
  int status;
  const pid_t child = fork();
  if (child == 0) _exit(fcntl(f, F_SETOWN, getpid()) != 0);
  CHECK(child > 0);
  siginfo_t gone;
  CHECK(waitid(P_PID, (id_t)child, &gone, WEXITED | WNOWAIT) == 0 && fcntl(copy, F_GETOWN) == child);
  CHECK(waitpid(child, &status, 0) == child && status == 0 && fcntl(copy, F_GETOWN) == 0);
  // Regular files are always ready: O_ASYNC does not stay, and FIOASYNC says so.
  CHECK(fcntl(f, F_SETFL, O_ASYNC) == 0 && !(fcntl(f, F_GETFL) & O_ASYNC));
  CHECK_ERRNO(ioctl(f, FIOASYNC, &(int){1}), ENOTTY);
  CHECK(ioctl(f, FIOASYNC, &(int){0}) == 0);
  CHECK_ERRNO(ioctl(f, FIOSETOWN, &(int){0}), ENOTTY);
  const int only = open(path, O_PATH);
  CHECK(only >= 0);
  CHECK_ERRNO(fcntl(only, F_SETOWN, getpid()), EBADF);
  CHECK_ERRNO(fcntl(only, F_GETSIG), EBADF);
  CHECK(close(f) == 0 && close(copy) == 0 && close(only) == 0 && unlink(path) == 0);
  CHECK_ERRNO(fcntl(f, F_GETOWN), EBADF);
  puts("owners");
}

static void pipes(const char* directory) {
  int p[2];
  CHECK(pipe(p) == 0 && fcntl(p[0], F_SETOWN, getpid()) == 0);
  async(p[0], 1);
  put(p[1]);
  expect(SIGIO, SI_KERNEL, 0, 0);
  CHECK(fcntl(p[0], F_SETSIG, rt) == 0);
  put(p[1]);
  readable(p[0]);
  // By the descriptor that O_ASYNC was set on, even if that is closed and another one stays.
  const int copy = dup(p[0]);
  CHECK((fcntl(copy, F_GETFL) & O_ASYNC) && close(p[0]) == 0);
  put(p[1]);
  readable(p[0]);
  async(copy, 0);
  put(p[1]);
  CHECK(none());
  async(copy, 1);  // with four bytes in there: only what comes is told
  CHECK(none());
  put(p[1]);
  readable(copy);
  CHECK(close(p[1]) == 0);
  readable(copy);  // the end of the file
  CHECK(close(copy) == 0);

  char path[4096];
  snprintf(path, sizeof path, "%s/fifo", directory);
  CHECK(mkfifo(path, 0600) == 0);
  const int r = open(path, O_RDONLY | O_NONBLOCK), w = open(path, O_WRONLY | O_NONBLOCK);
  CHECK(r >= 0 && w >= 0 && fcntl(r, F_SETOWN, getpid()) == 0 && fcntl(r, F_SETSIG, rt) == 0);
  CHECK(ioctl(r, FIOASYNC, &(int){1}) == 0 && (fcntl(r, F_GETFL) & O_ASYNC));
  put(w);
  readable(r);
  CHECK(ioctl(r, FIOASYNC, &(int){0}) == 0);
  // As often as a program likes.
  for (int i = 0; i < 20000; ++i) CHECK(ioctl(r, FIOASYNC, &(int){!(i & 1)}) == 0);
  CHECK(none());
  // Room in a full one.
  char page[4096] = {0};
  while (write(w, page, sizeof page) > 0) {
  }
  CHECK(errno == EAGAIN && fcntl(w, F_SETOWN, getpid()) == 0 && fcntl(w, F_SETSIG, rt) == 0);
  async(w, 1);
  for (int i = 0; i < 3; ++i) CHECK(read(r, page, sizeof page) > 0);
  expect(rt, POLL_OUT, w, POLLOUT | POLLWRNORM | POLLWRBAND);
  while (!none()) {  // Linux may tell of each time that somebody reads
  }
  CHECK(close(r) == 0);
  expect(rt, POLL_OUT, w, POLLOUT | POLLWRNORM | POLLWRBAND);  // nobody will read
  CHECK(close(w) == 0 && unlink(path) == 0);
  puts("pipes");
}

static void sockets(const char* directory) {
  int s[2];
  CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s) == 0);
  int who = getpid();
  CHECK(ioctl(s[0], FIOSETOWN, &who) == 0 && (who = 0, ioctl(s[0], SIOCGPGRP, &who)) == 0 && who == getpid());
  who = -getpgrp();
  CHECK(ioctl(s[0], SIOCSPGRP, &who) == 0 && (who = 0, ioctl(s[0], FIOGETOWN, &who)) == 0 && who == -getpgrp());
  CHECK_ERRNO(ioctl(s[0], FIOSETOWN, wild_address), EFAULT);
  CHECK(fcntl(s[0], F_SETOWN, getpid()) == 0 && fcntl(s[0], F_SETSIG, rt) == 0);
  async(s[0], 1);
  put(s[1]);
  readable(s[0]);
  put(s[1]);  // there is something already: told once more
  readable(s[0]);
  // The other end reads, and there was room all the time.
  put(s[0]);
  get(s[1]);
  CHECK(none());
  while (write(s[0], "0123456789abcdef", 16) > 0) {
  }
  CHECK(errno == EAGAIN);
  char page[65536];
  while (read(s[1], page, sizeof page) > 0) {
  }
  expect(rt, POLL_OUT, s[0], POLLOUT | POLLWRNORM | POLLWRBAND);
  while (!none()) {
  }
  get(s[0]), get(s[0]);
  CHECK(close(s[1]) == 0);
  expect(rt, POLL_HUP, s[0], POLLHUP | POLLERR);
  CHECK(close(s[0]) == 0);

  // Somebody connects.
  struct sockaddr_un name = {.sun_family = AF_UNIX};
  snprintf(name.sun_path, sizeof name.sun_path, "%s/socket", directory);
  const int l = socket(AF_UNIX, SOCK_STREAM, 0), c = socket(AF_UNIX, SOCK_STREAM, 0);
  CHECK(bind(l, (struct sockaddr*)&name, sizeof name) == 0 && listen(l, 1) == 0 && fcntl(l, F_SETOWN, getpid()) == 0);
  CHECK(fcntl(l, F_SETSIG, SIGCHLD) == 0);  // whose codes are its own
  async(l, 1);
  CHECK(connect(c, (struct sockaddr*)&name, sizeof name) == 0);
  expect(SIGCHLD, SI_SIGIO, l, POLLIN | POLLRDNORM);
  CHECK(close(l) == 0 && close(c) == 0 && unlink(name.sun_path) == 0);
  puts("sockets");
}

// --- owners other than the caller ---

static pid_t thread_id;
static pthread_barrier_t barrier;
static int thread_pipe[2];

static void* owns(void* unused) {
  thread_id = (pid_t)syscall(SYS_gettid);
  pthread_barrier_wait(&barrier);
  readable(thread_pipe[0]);
  return unused;
}

static void threads(void) {
  pthread_t t;
  CHECK(pipe(thread_pipe) == 0 && pthread_barrier_init(&barrier, NULL, 2) == 0 && pthread_create(&t, NULL, owns, NULL) == 0);
  pthread_barrier_wait(&barrier);
  const struct f_owner_ex e = {F_OWNER_TID, thread_id};
  CHECK(fcntl(thread_pipe[0], F_SETOWN_EX, &e) == 0 && fcntl(thread_pipe[0], F_SETSIG, rt) == 0);
  async(thread_pipe[0], 1);
  put(thread_pipe[1]);
  CHECK(pthread_join(t, NULL) == 0);
  put(thread_pipe[1]);
  CHECK(none());
  while (fcntl(thread_pipe[0], F_GETOWN) != 0) usleep(1000);  // when it has gone altogether
  CHECK(close(thread_pipe[0]) == 0 && close(thread_pipe[1]) == 0);
  puts("threads");
}

// Two children in a group of their own, which own what the parent writes to.
static void groups(void) {
  int p[2], ready[2], status;
  CHECK(pipe(p) == 0 && pipe(ready) == 0);
  pid_t child[2], group = 0;
  for (int i = 0; i < 2; ++i) {
    child[i] = fork();
    if (child[i] == 0) {
      CHECK(setpgid(0, group) == 0);
      put(ready[1]);
      readable(p[0]);
      _exit(0);
    }
    CHECK(child[i] > 0);
    get(ready[0]);
    if (i == 0) group = child[0];
  }
  CHECK(fcntl(p[0], F_SETOWN, -group) == 0 && fcntl(p[0], F_SETSIG, rt) == 0);
  async(p[0], 1);
  put(p[1]);
  for (int i = 0; i < 2; ++i) CHECK(waitpid(child[i], &status, 0) == child[i] && status == 0);
  CHECK(none() && close(p[0]) == 0 && close(p[1]) == 0 && close(ready[0]) == 0 && close(ready[1]) == 0);
  puts("groups");
}

// The last descriptor is closed by a child: nobody is told any more.
static void inherited(void) {
  int p[2], back[2], status;
  CHECK(pipe(p) == 0 && pipe(back) == 0 && fcntl(p[0], F_SETOWN, getpid()) == 0 && fcntl(p[0], F_SETSIG, rt) == 0);
  const int number = p[0];
  async(p[0], 1);
  const pid_t child = fork();
  if (child == 0) {
    close(p[1]);
    get(back[0]);
    get(p[0]);
    _exit(0);
  }
  CHECK(child > 0 && close(p[0]) == 0 && close(back[0]) == 0);
  put(p[1]);
  readable(number);
  put(back[1]);
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  signal(SIGPIPE, SIG_IGN);
  CHECK_ERRNO(write(p[1], "x", 1), EPIPE);
  CHECK(none() && close(p[1]) == 0 && close(back[1]) == 0);
  puts("inherited");
}

// What those who set the owner may not signal with kill(2) is told nothing.
static void strangers(void) {
  int p[2], set[2], done[2], status;
  CHECK(pipe(p) == 0 && pipe(set) == 0 && pipe(done) == 0);
  if (getuid() == 0) {
    const pid_t child = fork();
    if (child == 0) {
      CHECK(setresuid(1234, 1234, 1234) == 0 && fcntl(p[0], F_SETOWN, getppid()) == 0 && fcntl(p[0], F_SETSIG, rt) == 0);
      async(p[0], 1);
      put(set[1]);
      get(done[0]);
      _exit(0);
    }
    CHECK(child > 0);
    get(set[0]);
    put(p[1]);
    CHECK(none());
    CHECK(fcntl(p[0], F_SETOWN, getpid()) == 0);
    put(p[1]);
    readable(p[0]);
    put(done[1]);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
  }
  for (int i = 0; i < 2; ++i) CHECK(close(p[i]) == 0 && close(set[i]) == 0 && close(done[i]) == 0);
  puts("strangers");
}

static void signal_descriptors(void) {
  int p[2];
  CHECK(pipe(p) == 0 && fcntl(p[0], F_SETOWN, getpid()) == 0 && fcntl(p[0], F_SETSIG, rt) == 0);
  const int s = signalfd(-1, &watched, 0);
  async(p[0], 1);
  put(p[1]);
  struct signalfd_siginfo info;
  CHECK(s >= 0 && read(s, &info, sizeof info) == sizeof info);
  CHECK((int)info.ssi_signo == rt && info.ssi_code == POLL_IN && info.ssi_fd == p[0] && info.ssi_band == (POLLIN | POLLRDNORM));
  CHECK(close(s) == 0 && close(p[0]) == 0 && close(p[1]) == 0);
  puts("signalfd");
}

static volatile sig_atomic_t handled;
static void handler(int sig, siginfo_t* info, void* unused) {
  (void)sig, (void)unused;
  handled = info->si_fd;
}

// A handler interrupts, as for any signal; and the default is the process's end.
static void handlers(void) {
  int p[2], status;
  CHECK(pipe(p) == 0);
  const pid_t child = fork();
  if (child == 0) {
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(rt, &action, NULL) == 0 && fcntl(p[0], F_SETOWN, getpid()) == 0 && fcntl(p[0], F_SETSIG, rt) == 0);
    async(p[0], 1);
    put(p[1]);
    sigset_t open_;
    sigfillset(&open_);
    sigdelset(&open_, rt);
    sigsuspend(&open_);
    CHECK(handled == p[0]);
    CHECK(fcntl(p[0], F_SETSIG, 0) == 0 && sigprocmask(SIG_UNBLOCK, &watched, NULL) == 0);
    put(p[1]);
    for (;;) pause();
  }
  CHECK(child > 0 && waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGIO);
  CHECK(close(p[0]) == 0 && close(p[1]) == 0);
  puts("handlers");
}

static void resumes(const char* directory) {
  char path[4096];
  snprintf(path, sizeof path, "%s/file", directory);
  const int f = open(path, O_RDWR | O_CREAT, 0600);
  CHECK(f >= 0 && fcntl(f, F_SETOWN, -getpgrp()) == 0 && fcntl(f, F_SETSIG, rt) == 0);
  const struct f_owner_ex e = {F_OWNER_TID, (pid_t)syscall(SYS_gettid)};
  CHECK(fcntl(0, F_SETOWN_EX, &e) == 0 && fcntl(1, F_SETOWN, getpid()) == 0);
  get(0);
  CHECK(fcntl(f, F_GETSIG) == rt && (fcntl(f, F_GETOWN) == -getpgrp() || fcntl(f, F_GETOWN) == 0));
  CHECK(owner(0).type == F_OWNER_TID && owner(0).pid == (pid_t)syscall(SYS_gettid) && fcntl(0, F_GETSIG) == 0);
  CHECK(fcntl(1, F_GETOWN) == getpid() && fcntl(2, F_GETOWN) == 0);
  puts("resumed");
}

int main(int argc, char** argv) {
  CHECK(argc >= 2);
  setvbuf(stdout, NULL, _IONBF, 0);
  rt = SIGRTMIN + 1;
  if (argc == 3) {
    resumes(argv[1]);
    return 0;
  }
  sigemptyset(&watched);
  sigaddset(&watched, SIGIO);
  sigaddset(&watched, SIGCHLD);
  sigaddset(&watched, rt);
  names(argv[1]);
  CHECK(sigprocmask(SIG_BLOCK, &watched, NULL) == 0);
  pipes(argv[1]);
  sockets(argv[1]);
  sigdelset(&watched, SIGCHLD);
  threads();
  groups();
  inherited();
  strangers();
  signal_descriptors();
  handlers();
  return 0;
}
