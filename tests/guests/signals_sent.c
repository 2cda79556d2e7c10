// Signals that somebody sends: masks, queues, timers, waiting for them, and interrupted calls.
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

static volatile sig_atomic_t count, last, value;
static volatile pid_t handled_by;
static siginfo_t seen;

static void note(int signal, siginfo_t* info, void* context) {
  (void)context;
  last = signal;
  seen = *info;
  value = info->si_value.sival_int;
  handled_by = (pid_t)syscall(SYS_gettid);
  ++count;  // last: another thread waits for it
}
static void install(int signal, int flags) {
  struct sigaction action = {0}, old;
  action.sa_sigaction = note;
  action.sa_flags = SA_SIGINFO | flags;
  CHECK(sigaction(signal, &action, NULL) == 0);
  CHECK(sigaction(signal, NULL, &old) == 0 && old.sa_sigaction == note);
}
static void block(int how, int signal) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  CHECK(pthread_sigmask(how, &set, NULL) == 0);
}
static int pending(int signal) {
  sigset_t set;
  CHECK(sigpending(&set) == 0);
  return sigismember(&set, signal);
}

static void masks(void) {
  install(SIGUSR1, 0);
  block(SIG_BLOCK, SIGUSR1);
  CHECK(raise(SIGUSR1) == 0 && raise(SIGUSR1) == 0);
  CHECK(count == 0 && pending(SIGUSR1));
  block(SIG_UNBLOCK, SIGUSR1);
  CHECK(count == 1 && !pending(SIGUSR1));  // twice raised, once delivered
  CHECK(seen.si_pid == getpid() && seen.si_code == SI_TKILL);

  int rt = SIGRTMIN + 1;
  install(rt, 0);
  block(SIG_BLOCK, rt);
  count = 0;
  for (int i = 1; i <= 3; ++i) CHECK(sigqueue(getpid(), rt, (union sigval){.sival_int = 10 * i}) == 0);
  block(SIG_UNBLOCK, rt);
  CHECK(count == 3 && value == 30 && seen.si_code == SI_QUEUE);  // real-time signals queue, in order

  signal(SIGUSR2, SIG_IGN);
  CHECK(raise(SIGUSR2) == 0 && !pending(SIGUSR2));
  install(SIGUSR2, SA_RESETHAND);
  CHECK(raise(SIGUSR2) == 0);
  struct sigaction now;
  CHECK(sigaction(SIGUSR2, NULL, &now) == 0 && now.sa_handler == SIG_DFL);
  CHECK_ERRNO(kill(getpid(), 65), EINVAL);
  CHECK_ERRNO(sigaction(SIGKILL, &now, NULL), EINVAL);
  CHECK(kill(getpid(), 0) == 0);
  puts("masks, pending, queued and ignored signals");
}

static void synchronous(void) {
  sigset_t set, empty;
  siginfo_t info;
  struct timespec soon = {.tv_nsec = 2000000};
  sigemptyset(&empty);
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  block(SIG_BLOCK, SIGUSR1);
  CHECK_ERRNO(sigtimedwait(&set, &info, &soon), EAGAIN);
  CHECK(raise(SIGUSR1) == 0);
  CHECK(sigwaitinfo(&set, &info) == SIGUSR1 && info.si_signo == SIGUSR1);
  CHECK(raise(SIGUSR1) == 0);
  count = 0;
  CHECK_ERRNO(sigsuspend(&empty), EINTR);
  CHECK(count == 1 && last == SIGUSR1);
  block(SIG_UNBLOCK, SIGUSR1);
  puts("sigtimedwait, sigwaitinfo, sigsuspend");
}

static pthread_t target;
static volatile pid_t target_tid;
static int pipes[2];
static ssize_t read_result;
static int read_errno;
static void* read_pipe(void* arg) {
  char byte;
  (void)arg;
  __atomic_store_n(&target_tid, (pid_t)syscall(SYS_gettid), __ATOMIC_SEQ_CST);
  read_result = read(pipes[0], &byte, 1);
  read_errno = errno;
  return NULL;
}
static void sleep_ms(long ms) {
  struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
  while (nanosleep(&t, &t) == -1 && errno == EINTR) {}
}
// Signals a thread that waits in read() until the handler has run there.
static void interrupt_reader(int flags) {
  target_tid = 0;
  install(SIGUSR1, flags);
  count = 0;
  CHECK(pipe(pipes) == 0);
  CHECK(pthread_create(&target, NULL, read_pipe, NULL) == 0);
  while (!target_tid) sleep_ms(1);
  sleep_ms(20);  // only to make it likely that read() waits; the outcome is the same if not
  CHECK(syscall(SYS_tgkill, getpid(), target_tid, SIGUSR1) == 0);
  while (!count) sleep_ms(1);
  CHECK(handled_by == target_tid && handled_by != getpid());
}
static void restart(void) {
  interrupt_reader(SA_RESTART);
  CHECK(write(pipes[1], "x", 1) == 1);
  CHECK(pthread_join(target, NULL) == 0);
  CHECK(read_result == 1);
  interrupt_reader(0);
  // If the signal came before read() began, read() still waits; then the byte ends it.
  for (int i = 0; i < 50 && read_errno != EINTR && read_result != -1; ++i) {
    sleep_ms(2);
    CHECK(syscall(SYS_tgkill, getpid(), target_tid, SIGUSR1) == 0 || errno == ESRCH);
  }
  CHECK(pthread_join(target, NULL) == 0);
  CHECK(read_result == -1 && read_errno == EINTR);
  // join() may be back a moment before the thread is gone.
  for (int i = 0; i < 1000 && syscall(SYS_tgkill, getpid(), target_tid, 0) == 0; ++i) sleep_ms(1);
  CHECK_ERRNO(syscall(SYS_tgkill, getpid(), target_tid, SIGUSR1), ESRCH);
  puts("read() restarted with SA_RESTART, EINTR without");
}

// A signal that is pending as a transfer begins does not end one that need not wait.
static void ready(void) {
  install(SIGALRM, 0);
  count = 0;
  const struct itimerval often = {.it_interval = {.tv_usec = 200}, .it_value = {.tv_usec = 200}}, off = {0};
  int pair[2], ends[2];
  CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && pipe(ends) == 0);
  struct pollfd other = {.fd = pair[1], .events = POLLIN};
  CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
  char byte = 'r';
  for (int i = 0; i < 2000 || (count < 20 && i < 2000000); ++i) {
    CHECK(write(ends[1], &byte, 1) == 1 && read(ends[0], &byte, 1) == 1);
    CHECK(write(pair[0], &byte, 1) == 1 && poll(&other, 1, -1) == 1 && read(pair[1], &byte, 1) == 1);
    CHECK(send(pair[0], &byte, 1, 0) == 1 && recv(pair[1], &byte, 1, 0) == 1);
  }
  CHECK(setitimer(ITIMER_REAL, &off, NULL) == 0 && count >= 20);
  CHECK(close(pair[0]) == 0 && close(pair[1]) == 0 && close(ends[0]) == 0 && close(ends[1]) == 0);
  puts("what need not wait is not interrupted");
}

static void timers(void) {
  install(SIGALRM, 0);
  count = 0;
  struct itimerval every = {.it_interval = {.tv_usec = 3000}, .it_value = {.tv_usec = 3000}}, left, off = {0};
  CHECK(setitimer(ITIMER_REAL, &every, NULL) == 0);
  while (count < 3) pause();
  CHECK(setitimer(ITIMER_REAL, &off, &left) == 0 && left.it_interval.tv_usec == 3000);

  install(SIGRTMIN, 0);
  count = 0;
  timer_t timer;
  struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN, .sigev_value = {.sival_int = 77}};
  CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
  struct itimerspec spec = {.it_interval = {.tv_nsec = 3000000}, .it_value = {.tv_nsec = 3000000}}, rest;
  CHECK(timer_settime(timer, 0, &spec, NULL) == 0);
  CHECK(timer_gettime(timer, &rest) == 0 && rest.it_interval.tv_nsec == 3000000);
  while (count < 3) pause();
  CHECK(value == 77 && seen.si_code == SI_TIMER && last == SIGRTMIN);
  CHECK(timer_getoverrun(timer) >= 0);
  CHECK(timer_delete(timer) == 0);

  // Two timers with one signal have one each; what expires while it waits is counted.
  timer_t two[2];
  event.sigev_signo = SIGUSR1;
  block(SIG_BLOCK, SIGUSR1);
  for (int i = 0; i < 2; ++i) {
    event.sigev_value.sival_int = i;
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &two[i]) == 0 && timer_settime(two[i], 0, &spec, NULL) == 0);
  }
  sleep_ms(50);
  sigset_t waited;
  siginfo_t info;
  sigemptyset(&waited);
  sigaddset(&waited, SIGUSR1);
  for (int i = 0; i < 2; ++i) {
    CHECK(sigwaitinfo(&waited, &info) == SIGUSR1 && info.si_code == SI_TIMER && info.si_value.sival_int == i);
    CHECK(info.si_overrun >= 1 && timer_getoverrun(two[i]) == info.si_overrun);
  }
  for (int i = 0; i < 2; ++i) CHECK(timer_delete(two[i]) == 0);
  CHECK(signal(SIGUSR1, SIG_IGN) != SIG_ERR);
  block(SIG_UNBLOCK, SIGUSR1);

  // A sleep that a signal ends says how much was left.
  count = 0;
  struct itimerval once = {.it_value = {.tv_usec = 5000}};
  CHECK(setitimer(ITIMER_REAL, &once, NULL) == 0);
  struct timespec wish = {.tv_sec = 100}, remaining = {0};
  CHECK_ERRNO(nanosleep(&wish, &remaining), EINTR);
  CHECK(count == 1 && remaining.tv_sec >= 50 && remaining.tv_sec < 100);
  count = 0;
  CHECK(alarm(100) == 0);
  CHECK(alarm(0) == 100);
  puts("setitimer, timer_create, alarm, an interrupted sleep");
}

// Once a timer is stopped or removed no signal of its comes any more.
static void stopped_timers(void) {
  static const struct itimerspec often = {{0, 200000}, {0, 200000}}, off = {{0, 0}, {0, 0}};
  static const struct itimerval plain_often = {{0, 200}, {0, 200}}, plain_off = {{0, 0}, {0, 0}};
  install(SIGALRM, 0);
  struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
  for (int round = 0; round < 150; ++round) {
    enum { kPlain, kStopped, kRemoved } how = round % 3;
    timer_t timer;
    count = 0;
    if (how == kPlain) CHECK(setitimer(ITIMER_REAL, &plain_often, NULL) == 0);
    else CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0 && timer_settime(timer, 0, &often, NULL) == 0);
    for (volatile int spin = 0; count == 0 || spin < round * 1000; ++spin) {}
    if (how == kPlain) CHECK(setitimer(ITIMER_REAL, &plain_off, NULL) == 0);
    if (how == kStopped) CHECK(timer_settime(timer, 0, &off, NULL) == 0);
    if (how == kRemoved) CHECK(timer_delete(timer) == 0);
    const int before = count;
    const struct timespec moment = {.tv_nsec = 500000};
    CHECK((errno = clock_nanosleep(CLOCK_MONOTONIC, 0, &moment, NULL)) == 0 && count == before);
    if (how == kStopped) CHECK(timer_delete(timer) == 0);
  }
  puts("no signal of a timer that is stopped");
}

// A timer interrupts a computation that makes no call at all, a thousand places over.
static void preemption(void) {
  install(SIGALRM, SA_RESTART);
  count = 0;
  struct itimerval every = {.it_interval = {.tv_usec = 2000}, .it_value = {.tv_usec = 2000}}, off = {0};
  CHECK(setitimer(ITIMER_REAL, &every, NULL) == 0);
  uint64_t a = 1, b = 1, steps = 0;
  while (count < 20) {
    a = a * 6364136223846793005u + 1;
    b = (b + b * 5) ^ (b >> 3);
    ++steps;
  }
  CHECK(setitimer(ITIMER_REAL, &off, NULL) == 0);
  uint64_t check = 1, check_b = 1;
  for (uint64_t i = 0; i < steps; ++i) {
    check = check * 6364136223846793005u + 1;
    check_b = (check_b + check_b * 5) ^ (check_b >> 3);
  }
  CHECK(check == a && check_b == b);
  puts("a computation interrupted 20 times came out right");
}

// Handlers nest, each with the mask it asked for; the mask is back afterwards.
static int nesting, deepest;
static void nest(int signal) {
  ++nesting;
  if (nesting > deepest) deepest = nesting;
  sigset_t now;
  sigprocmask(SIG_BLOCK, NULL, &now);
  CHECK(sigismember(&now, signal));
  if (signal == SIGUSR1) raise(SIGUSR2);
  if (signal == SIGUSR2) raise(SIGTERM);
  --nesting;
}
static void nested(void) {
  struct sigaction action = {.sa_handler = nest};
  sigaction(SIGUSR1, &action, NULL);
  sigaction(SIGUSR2, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
  raise(SIGUSR1);
  sigset_t now;
  sigprocmask(SIG_BLOCK, NULL, &now);
  CHECK(deepest == 3 && !sigismember(&now, SIGUSR1) && !sigismember(&now, SIGTERM));
  puts("handlers nested three deep");
}

int main(void) {
  masks();
  synchronous();
  restart();
  ready();
  timers();
  stopped_timers();
  preemption();
  nested();
  return 0;
}
