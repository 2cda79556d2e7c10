// signalfd: signals that are read, polled for, waited for in an epoll, across fork, and with wrong arguments.
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static sigset_t set_of(int a, int b) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, a);
  sigaddset(&set, b);
  return set;
}
static int readable(int fd, int ms) {
  struct pollfd p = {.fd = fd, .events = POLLIN};
  const int n = poll(&p, 1, ms);
  CHECK(n >= 0 && (n == 0 || p.revents == POLLIN));
  return n;
}
static struct signalfd_siginfo next(int fd) {
  struct signalfd_siginfo s;
  CHECK(read(fd, &s, sizeof s) == sizeof s);
  return s;
}

static void one_process(int fd) {
  struct signalfd_siginfo many[4];
  CHECK(!readable(fd, 0));
  CHECK_ERRNO(read(fd, many, sizeof many), EAGAIN);
  CHECK(kill(getpid(), SIGUSR1) == 0 && readable(fd, -1));
  struct signalfd_siginfo s = next(fd);
  CHECK(s.ssi_signo == SIGUSR1 && s.ssi_code == SI_USER && s.ssi_pid == (unsigned)getpid() && s.ssi_uid == getuid());
  CHECK(!readable(fd, 0));
  // The lowest first, each with what was sent; a standard signal is pending once.
  CHECK(sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 7}) == 0);
  CHECK(sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 8}) == 0);
  CHECK(raise(SIGUSR1) == 0 && raise(SIGUSR1) == 0);
  const sigset_t wider = set_of(SIGUSR1, SIGRTMIN);
  CHECK(signalfd(fd, &wider, 0) == fd && readable(fd, 0));
  CHECK(read(fd, many, sizeof many) == 3 * sizeof s);
  CHECK(many[0].ssi_signo == SIGUSR1 && many[1].ssi_int == 7 && many[2].ssi_int == 8 && many[2].ssi_code == SI_QUEUE);
  CHECK(!readable(fd, 0));
  // By readv(2), a whole record in each piece, which older kernels ask for.
  CHECK(sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 9}) == 0 && kill(getpid(), SIGUSR1) == 0);
  struct iovec pieces[] = {{&many[0], sizeof s}, {&many[1], sizeof s}};
  CHECK(readv(fd, pieces, 2) == 2 * sizeof s && many[0].ssi_signo == SIGUSR1 && many[1].ssi_int == 9);
  // What is pending already is there when one is made.
  CHECK(kill(getpid(), SIGUSR1) == 0);
  const int other = signalfd(-1, &wider, SFD_NONBLOCK);
  CHECK(readable(other, 0) && readable(fd, 0) && next(other).ssi_signo == SIGUSR1);
  CHECK_ERRNO(read(fd, &s, sizeof s), EAGAIN);
  CHECK(!readable(fd, 0) && close(other) == 0);
  puts("one process");
}

static void* sender(void* to) {
  CHECK(kill((pid_t)(intptr_t)to, SIGUSR1) == 0);
  return NULL;
}

static void waiting(int fd) {
  CHECK(fcntl(fd, F_SETFL, 0) == 0);
  pthread_t thread;
  for (int i = 0; i < 20; ++i) {
    CHECK(pthread_create(&thread, NULL, sender, (void*)(intptr_t)getpid()) == 0);
    CHECK(next(fd).ssi_signo == SIGUSR1);  // waits
    CHECK(pthread_join(thread, NULL) == 0);
  }
  CHECK(fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
  puts("waiting");
}

// Parent and child have the same descriptor: each reads its own signals.
static void processes(int fd) {
  const int events = epoll_create1(0);
  struct epoll_event e = {.events = EPOLLIN};
  CHECK(epoll_ctl(events, EPOLL_CTL_ADD, fd, &e) == 0);
  int ready[2];
  CHECK(pipe(ready) == 0);
  const pid_t child = fork();
  if (child == 0) {
    CHECK(write(ready[1], "x", 1) == 1);
    struct signalfd_siginfo s;
    do CHECK(readable(fd, -1));  // no epoll: on Linux it goes on looking at the parent's signals
    while (read(fd, &s, sizeof s) < 0);
    CHECK(s.ssi_signo == SIGUSR1 && s.ssi_pid == (unsigned)getppid());
    _exit(7);
  }
  char byte;
  CHECK(read(ready[0], &byte, 1) == 1 && kill(child, SIGUSR1) == 0);
  int status;
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 7);
  CHECK(!readable(fd, 0) || read(fd, &status, 0) == -1);
  const sigset_t with_children = set_of(SIGUSR1, SIGCHLD);
  CHECK(signalfd(fd, &with_children, 0) == fd);
  struct signalfd_siginfo s;
  while (read(fd, &s, sizeof s) > 0) CHECK(s.ssi_signo == SIGCHLD && s.ssi_pid == (unsigned)child);  // the one above
  const pid_t second = fork();
  if (second == 0) _exit(3);
  do CHECK(epoll_wait(events, &e, 1, -1) == 1);
  while (read(fd, &s, sizeof s) < 0);
  CHECK(s.ssi_signo == SIGCHLD && s.ssi_pid == (unsigned)second && s.ssi_status == 3 && s.ssi_code == CLD_EXITED);
  CHECK(waitpid(second, NULL, 0) == second);
  puts("processes");
}

static void wrong(int fd) {
  const sigset_t set = set_of(SIGUSR1, SIGKILL);  // which is taken out silently
  struct signalfd_siginfo s;
  CHECK_ERRNO(signalfd(-1, &set, 0x1000000), EINVAL);
  CHECK_ERRNO(signalfd(99, &set, 0), EBADF);
  CHECK_ERRNO(signalfd(1, &set, 0), EINVAL);
  CHECK_ERRNO(syscall(SYS_signalfd4, -1, &set, 4, 0), EINVAL);
  CHECK_ERRNO(syscall(SYS_signalfd4, -1, wild_address, 8, 0), EFAULT);
  CHECK_ERRNO(read(fd, &s, sizeof s - 1), EINVAL);
  CHECK_ERRNO(write(fd, &s, sizeof s), EINVAL);
  CHECK_ERRNO(pread(fd, &s, sizeof s, 0), ESPIPE);
  CHECK(signalfd(fd, &set, 0) == fd && kill(getpid(), SIGUSR1) == 0);
  CHECK_ERRNO(read(fd, wild_address, sizeof s), EFAULT);
  puts("wrong arguments");
}

int main(void) {
  sigset_t blocked = set_of(SIGUSR1, SIGRTMIN);
  sigaddset(&blocked, SIGCHLD);
  CHECK(sigprocmask(SIG_BLOCK, &blocked, NULL) == 0);
  const sigset_t set = set_of(SIGUSR1, SIGUSR2);
  const int fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
  CHECK(fd >= 0 && fcntl(fd, F_GETFD) == FD_CLOEXEC && (fcntl(fd, F_GETFL) & O_NONBLOCK));
  one_process(fd);
  waiting(fd);
  processes(fd);
  wrong(fd);
}
