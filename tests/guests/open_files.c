// Has one of each kind of open file that has no path, with something in it, and checks that all of it is there after it was
// saved, and after a copy of it was. Natively and where nobody saves it, the same is so.
//   open_files hook        may be saved at "first", right after that at "again", and at "second"
//   open_files read        reads its input
#define _GNU_SOURCE
#include "../../vmm/include/ramet_guest.h"
#include "check.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { kFull = 65536, kRead = 0, kWrite = 1 };

static char filler[kFull];
static int is_readable(int fd) {
  struct pollfd p = {.fd = fd, .events = POLLIN};
  CHECK(poll(&p, 1, 0) >= 0);
  return p.revents & POLLIN ? 1 : 0;
}
static uint64_t number(int fd) {
  uint64_t n = 0;
  CHECK(read(fd, &n, sizeof n) == sizeof n);
  return n;
}
static void add_number(int fd, uint64_t n) { CHECK(write(fd, &n, sizeof n) == sizeof n); }
static int says(int fd, const char* text) {
  char got[256];
  const ssize_t n = read(fd, got, sizeof got);
  return n == (ssize_t)strlen(text) && memcmp(got, text, (size_t)n) == 0;
}
static void no_more(int fd) {
  char c;
  CHECK_ERRNO(read(fd, &c, 1), EAGAIN);
}

// --- eventfds ---

static int event, same_event, semaphore, idle;
static void prepare_events(void) {
  CHECK((event = eventfd(5, 0)) >= 0 && (same_event = dup2(event, 90)) == 90);
  CHECK((semaphore = eventfd(3, EFD_SEMAPHORE | EFD_NONBLOCK | EFD_CLOEXEC)) >= 0);
  CHECK((idle = eventfd(0, EFD_NONBLOCK)) >= 0);
}
static void check_events(void) {
  uint64_t n;
  add_number(same_event, 1ull << 40);
  CHECK(number(event) == (1ull << 40) + 5 && !is_readable(same_event));
  for (int i = 0; i < 3; i++) CHECK(number(semaphore) == 1);
  CHECK_ERRNO(read(semaphore, &n, sizeof n), EAGAIN);
  CHECK_ERRNO(read(idle, &n, sizeof n), EAGAIN);
  CHECK(fcntl(semaphore, F_GETFD) == FD_CLOEXEC && fcntl(event, F_GETFD) == 0);
  CHECK(fcntl(semaphore, F_GETFL) == (O_RDWR | O_NONBLOCK) && fcntl(event, F_GETFL) == O_RDWR);
}

// --- pipes ---

static int plain[2], packets[2], left[2], broken[2], full[2];
static volatile sig_atomic_t told;
static void on_signal(int sig, siginfo_t* info, void* context) {
  (void)sig, (void)context;
  told = info->si_fd;
}
static void prepare_pipes(void) {
  CHECK(pipe2(plain, O_CLOEXEC) == 0 && fcntl(plain[kRead], F_SETPIPE_SZ, 8192) == 8192);
  CHECK(fcntl(plain[kRead], F_SETFL, O_NONBLOCK) == 0 && write(plain[kWrite], "hello", 5) == 5);
  CHECK(pipe2(packets, O_DIRECT | O_NONBLOCK) == 0);
  CHECK(write(packets[kWrite], "ab", 2) == 2 && write(packets[kWrite], "c", 1) == 1);
  CHECK(pipe(left) == 0 && write(left[kWrite], "the rest", 8) == 8 && close(left[kWrite]) == 0);
  CHECK(pipe(broken) == 0 && close(broken[kRead]) == 0);
  CHECK(pipe2(full, O_NONBLOCK) == 0 && write(full[kWrite], filler, kFull) == kFull);
  CHECK(fcntl(packets[kRead], F_SETOWN, getpid()) == 0 && fcntl(packets[kRead], F_SETSIG, SIGRTMIN) == 0);
  CHECK(fcntl(packets[kRead], F_SETFL, O_NONBLOCK | O_ASYNC) == 0);
}
static void check_pipes(void) {
  char got[kFull];
  CHECK(fcntl(plain[kWrite], F_GETPIPE_SZ) == 8192 && fcntl(full[kWrite], F_GETPIPE_SZ) == kFull);
  CHECK(fcntl(plain[kRead], F_GETFL) == (O_RDONLY | O_NONBLOCK) && fcntl(plain[kWrite], F_GETFL) == O_WRONLY);
  CHECK(fcntl(plain[kRead], F_GETFD) == FD_CLOEXEC && says(plain[kRead], "hello"));
  no_more(plain[kRead]);
  CHECK(write(plain[kWrite], "more", 4) == 4 && says(plain[kRead], "more"));
  CHECK(fcntl(packets[kWrite], F_GETFL) == (O_WRONLY | O_NONBLOCK | O_DIRECT));
  CHECK(says(packets[kRead], "ab") && says(packets[kRead], "c"));
  no_more(packets[kRead]);
  CHECK((fcntl(packets[kRead], F_GETFL) & O_ASYNC) && fcntl(packets[kRead], F_GETSIG) == SIGRTMIN);
  sigset_t others;
  CHECK(pthread_sigmask(SIG_BLOCK, NULL, &others) == 0 && sigdelset(&others, SIGRTMIN) == 0);
  told = -1;
  CHECK(write(packets[kWrite], "d", 1) == 1 && write(packets[kWrite], "e", 1) == 1 && fcntl(packets[kRead], F_GETOWN) == getpid());
  while (told != packets[kRead]) sigsuspend(&others);
  CHECK(says(packets[kRead], "d") && says(packets[kRead], "e"));
  CHECK(says(left[kRead], "the rest") && says(left[kRead], ""));
  CHECK_ERRNO(write(broken[kWrite], "x", 1), EPIPE);
  CHECK_ERRNO(write(full[kWrite], "x", 1), EAGAIN);
  CHECK(read(full[kRead], got, kFull) == kFull && memcmp(got, filler, kFull) == 0);
  no_more(full[kRead]);
}

// --- timerfds ---

static int far, gone, often, soon, at_time, stopped;
static int timer(int clock, int flags, time_t first, long nanoseconds, time_t interval) {
  const int fd = timerfd_create(clock, TFD_NONBLOCK);
  const struct itimerspec set = {.it_value = {first, nanoseconds}, .it_interval = {interval, 0}};
  CHECK(fd >= 0 && timerfd_settime(fd, flags, &set, NULL) == 0);
  return fd;
}
static struct itimerspec left_of(int fd) {
  struct itimerspec t;
  CHECK(timerfd_gettime(fd, &t) == 0);
  return t;
}
static void prepare_timers(void) {
  struct timespec now;
  far = timer(CLOCK_MONOTONIC, 0, 5000, 0, 7);
  gone = timer(CLOCK_MONOTONIC, 0, 0, 1, 0);
  // Has run out eleven times, hours apart.
  CHECK(clock_gettime(CLOCK_REALTIME, &now) == 0);
  often = timer(CLOCK_REALTIME, TFD_TIMER_ABSTIME, now.tv_sec - 10 * 3600 - 60, 0, 3600);
  soon = timer(CLOCK_BOOTTIME, 0, 0, 50000000, 0);
  at_time = timer(CLOCK_REALTIME, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, now.tv_sec + 5000, 0, 0);
  stopped = timer(CLOCK_MONOTONIC, 0, 0, 0, 9);
  while (!is_readable(gone) || !is_readable(often)) {
  }
}
static void check_timers(void) {
  uint64_t n;
  struct itimerspec t = left_of(far);
  CHECK(t.it_value.tv_sec > 4000 && t.it_value.tv_sec <= 5000 && t.it_interval.tv_sec == 7);
  CHECK(number(gone) == 1 && left_of(gone).it_value.tv_sec == 0);
  CHECK(number(often) == 11);
  t = left_of(often);
  CHECK(t.it_value.tv_sec > 2000 && t.it_value.tv_sec <= 3600 && t.it_interval.tv_sec == 3600);
  struct pollfd wait = {.fd = soon, .events = POLLIN};
  CHECK(poll(&wait, 1, -1) == 1 && number(soon) == 1);
  t = left_of(at_time);
  CHECK(t.it_value.tv_sec > 4000 && t.it_value.tv_sec <= 5000 && t.it_interval.tv_sec == 0);
  t = left_of(stopped);
  CHECK(t.it_value.tv_sec == 0 && t.it_value.tv_nsec == 0 && t.it_interval.tv_sec == 9);
  CHECK_ERRNO(read(stopped, &n, sizeof n), EAGAIN);
}

// --- signalfds ---

static int usr1, usr2;
static int signal_fd(int sig) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, sig);
  return signalfd(-1, &set, SFD_NONBLOCK);
}
static void prepare_signals(void) {
  CHECK((usr1 = signal_fd(SIGUSR1)) >= 0 && (usr2 = signal_fd(SIGUSR2)) >= 0 && raise(SIGUSR1) == 0);
}
static void check_signals(void) {
  struct signalfd_siginfo info;
  CHECK(is_readable(usr1) && !is_readable(usr2));
  CHECK(read(usr1, &info, sizeof info) == sizeof info && info.ssi_signo == SIGUSR1 && !is_readable(usr1));
  CHECK(kill(getpid(), SIGUSR2) == 0 && is_readable(usr2));
  CHECK(read(usr2, &info, sizeof info) == sizeof info && info.ssi_signo == SIGUSR2);
  CHECK(!is_readable(usr2));
}

// --- epoll instances ---

static int outer, inner;
static void control(int epoll, int operation, int fd, uint32_t events, uint64_t data) {
  struct epoll_event e = {.events = events, .data.u64 = data};
  CHECK(epoll_ctl(epoll, operation, fd, &e) == 0);
}
// All that is ready, at most once each: its data, a bit for each.
static uint64_t ready(int epoll) {
  struct epoll_event e[32];
  uint64_t found = 0;
  const int n = epoll_wait(epoll, e, 32, 0);
  CHECK(n >= 0);
  for (int i = 0; i < n; i++) {
    CHECK(!(found >> e[i].data.u64 & 1));
    found |= 1ull << e[i].data.u64;
  }
  return found;
}
static uint64_t bit(int data) { return 1ull << data; }
enum { kDup = 40, kGone = 41 };
static void prepare_epolls(void) {
  CHECK((outer = epoll_create1(EPOLL_CLOEXEC)) >= 0 && (inner = epoll_create1(0)) >= 0);
  control(outer, EPOLL_CTL_ADD, inner, EPOLLIN, 50);
  control(inner, EPOLL_CTL_ADD, event, EPOLLIN, 51);
  control(inner, EPOLL_CTL_ADD, plain[kRead], EPOLLIN | EPOLLET, 52);
  control(inner, EPOLL_CTL_ADD, idle, EPOLLIN, 53);
  control(inner, EPOLL_CTL_ADD, usr1, EPOLLIN, 54);
  control(inner, EPOLL_CTL_ADD, gone, EPOLLIN | EPOLLEXCLUSIVE, 55);
  // Numbers of one file: one was closed again.
  CHECK(dup2(plain[kRead], kDup) == kDup && dup2(plain[kRead], kGone) == kGone);
  control(inner, EPOLL_CTL_ADD, kDup, EPOLLIN, 56);
  control(inner, EPOLL_CTL_ADD, kGone, EPOLLIN, 57);
  CHECK(close(kGone) == 0);
  // Have fired.
  control(outer, EPOLL_CTL_ADD, event, EPOLLIN | EPOLLONESHOT, 58);
  control(outer, EPOLL_CTL_ADD, left[kRead], EPOLLIN | EPOLLONESHOT, 59);
  control(outer, EPOLL_CTL_ADD, same_event, EPOLLIN | EPOLLONESHOT, 60);
  CHECK((ready(outer) & ~bit(50)) == (bit(58) | bit(59) | bit(60)) && (ready(outer) & ~bit(50)) == 0);
  control(outer, EPOLL_CTL_ADD, idle, EPOLLIN | EPOLLONESHOT, 61);  // and one has not
}
static void check_epolls(void) {
  CHECK(fcntl(outer, F_GETFD) == FD_CLOEXEC && fcntl(inner, F_GETFD) == 0);
  CHECK(ready(outer) == bit(50));
  const uint64_t level = bit(51) | bit(54) | bit(55) | bit(56) | bit(57);
  CHECK((ready(inner) & ~bit(52)) == level && ready(inner) == level);
  struct epoll_event e = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = 62};
  CHECK_ERRNO(epoll_ctl(outer, EPOLL_CTL_ADD, event, &e), EEXIST);
  control(outer, EPOLL_CTL_MOD, event, EPOLLIN | EPOLLONESHOT, 62);
  CHECK(ready(outer) == (bit(50) | bit(62)));
  CHECK(epoll_ctl(outer, EPOLL_CTL_DEL, left[kRead], NULL) == 0);
  CHECK_ERRNO(epoll_ctl(outer, EPOLL_CTL_DEL, left[kRead], NULL), ENOENT);
  control(outer, EPOLL_CTL_ADD, left[kRead], EPOLLIN, 59);
  CHECK(epoll_ctl(outer, EPOLL_CTL_DEL, same_event, NULL) == 0);
  add_number(idle, 1);
  CHECK(ready(outer) == (bit(50) | bit(59) | bit(61)) && ready(inner) == (level | bit(53)));
  CHECK(ready(outer) == (bit(50) | bit(59)));
  number(idle);
}

// --- threads that wait in them ---

static int awaited[2], bell, waits;
static void* wait_in_read(void* unused) {
  (void)unused;
  CHECK(says(awaited[kRead], "come"));
  return NULL;
}
static void* wait_in_epoll(void* unused) {
  (void)unused;
  struct epoll_event e;
  while (epoll_wait(waits, &e, 1, -1) != 1) CHECK(errno == EINTR);
  CHECK(e.data.u64 == 63 && number(bell) == 2);
  return NULL;
}

static void close_all(void) {
  const int all[] = {event, same_event, semaphore, idle, plain[0], plain[1], packets[0], packets[1], left[0], broken[1], full[0], full[1],
                     far, gone, often, soon, at_time, stopped, usr1, usr2, outer, inner, kDup, awaited[0], awaited[1], bell, waits};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) CHECK(close(all[i]) == 0);
}

// `first`, `second`: where it may be saved, one right after the other; none: reads its input.
static void all(const char* first, const char* second, int input) {
  pthread_t threads[2];
  prepare_events();
  prepare_pipes();
  prepare_timers();
  prepare_signals();
  prepare_epolls();
  CHECK(pipe(awaited) == 0 && (bell = eventfd(0, 0)) >= 0 && (waits = epoll_create1(0)) >= 0);
  control(waits, EPOLL_CTL_ADD, bell, EPOLLIN, 63);
  CHECK(pthread_create(&threads[0], NULL, wait_in_read, NULL) == 0 && pthread_create(&threads[1], NULL, wait_in_epoll, NULL) == 0);
  if (first) ramet_snapshot(first);
  if (second) ramet_snapshot(second);
  if (!first) CHECK(says(0, "input"));
  // What waits for standard input finds it ready, also where it is a file now.
  if (input >= 0) CHECK(ready(input) == 1 && ready(input) == 1 && epoll_ctl(input, EPOLL_CTL_DEL, 0, NULL) == 0 && close(input) == 0);
  check_epolls();
  check_events();
  check_pipes();
  check_timers();
  check_signals();
  CHECK(write(awaited[kWrite], "come", 4) == 4);
  add_number(bell, 2);
  CHECK(pthread_join(threads[0], NULL) == 0 && pthread_join(threads[1], NULL) == 0);
  close_all();
}

int main(int argc, char** argv) {
  for (int i = 0; i < kFull; i++) filler[i] = (char)(i * 7 >> 3);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1), sigaddset(&set, SIGUSR2), sigaddset(&set, SIGRTMIN);
  CHECK(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0 && signal(SIGPIPE, SIG_IGN) != SIG_ERR);
  struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
  CHECK(sigaction(SIGRTMIN, &action, NULL) == 0);
  // Nobody can wait for some kinds of input.
  struct epoll_event e = {.events = EPOLLIN, .data.u64 = 0};
  int input = epoll_create1(0);
  CHECK(input >= 0);
  if (epoll_ctl(input, EPOLL_CTL_ADD, 0, &e) != 0) {
    CHECK(errno == EPERM && close(input) == 0);
    input = -1;
  }
  if (argc == 2 && strcmp(argv[1], "hook") == 0) {
    all("first", "again", input);
    all("second", NULL, -1);
  } else if (argc == 2 && strcmp(argv[1], "read") == 0) {
    all(NULL, NULL, input);
  } else {
    return 2;
  }
  puts("all there");
  return 0;
}
