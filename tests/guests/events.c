// Waiting for descriptors: pipes, poll, select, epoll, eventfd, timerfd.
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

static volatile int pipe_signals;
static void on_pipe(int signal) { pipe_signals += signal == SIGPIPE; }

static void* feed(void* arg) {
  int fd = (int)(intptr_t)arg;
  char block[1000];
  for (int i = 0; i < 1000; ++i) {
    memset(block, i % 256, sizeof block);
    for (size_t done = 0; done < sizeof block;) {
      ssize_t n = write(fd, block + done, sizeof block - done);
      CHECK(n > 0);
      done += (size_t)n;
    }
  }
  CHECK(close(fd) == 0);
  return NULL;
}

static void pipes(void) {
  int p[2];
  char buffer[4096];
  CHECK(pipe2(p, O_CLOEXEC) == 0);
  pthread_t writer;
  CHECK(pthread_create(&writer, NULL, feed, (void*)(intptr_t)p[1]) == 0);
  uint64_t bytes = 0, sum = 0;
  for (ssize_t n; (n = read(p[0], buffer, sizeof buffer)) > 0; bytes += (uint64_t)n)
    for (ssize_t i = 0; i < n; ++i) sum += (unsigned char)buffer[i];
  CHECK(pthread_join(writer, NULL) == 0);
  printf("pipe: %llu bytes, sum %llu\n", (unsigned long long)bytes, (unsigned long long)sum);
  CHECK(close(p[0]) == 0 && pipe2(p, O_NONBLOCK) == 0);
  CHECK(fcntl(p[0], F_GETFL) == O_NONBLOCK && fcntl(p[1], F_GETFL) == (O_WRONLY | O_NONBLOCK));
  CHECK_ERRNO(read(p[0], buffer, 1), EAGAIN);
  ssize_t filled = 0, n;
  while ((n = write(p[1], buffer, sizeof buffer)) > 0) filled += n;
  CHECK(errno == EAGAIN && filled >= 4096);
  int queued = 0;
  CHECK(ioctl(p[0], FIONREAD, &queued) == 0 && queued == filled);
  CHECK(ioctl(p[0], FIOASYNC, &(int){0}) == 0 && fcntl(p[0], F_SETOWN, getpid()) == 0);
  struct sigaction action = {.sa_handler = on_pipe};
  sigaction(SIGPIPE, &action, NULL);
  CHECK(close(p[0]) == 0);
  CHECK_ERRNO(write(p[1], buffer, 1), EPIPE);
  CHECK(pipe_signals == 1 && close(p[1]) == 0);
  CHECK_ERRNO(pipe(wild_address), EFAULT);
  puts("pipes: blocking, non-blocking, broken");
}

static void polling(void) {
  int p[2];
  char byte;
  CHECK(pipe(p) == 0);
  struct pollfd fds[3] = {{p[0], POLLIN, 0}, {p[1], POLLOUT, 0}, {-1, POLLIN, 0}};
  CHECK(poll(fds, 3, 0) == 1 && fds[0].revents == 0 && fds[1].revents == POLLOUT && fds[2].revents == 0);
  CHECK(poll(fds, 1, 5) == 0);
  CHECK(write(p[1], "x", 1) == 1 && poll(fds, 3, -1) == 2 && fds[0].revents == POLLIN);
  fd_set reads, writes;
  FD_ZERO(&reads);
  FD_ZERO(&writes);
  FD_SET(p[0], &reads);
  FD_SET(p[1], &writes);
  struct timeval limit = {.tv_sec = 10};
  CHECK(select(p[1] + 1, &reads, &writes, NULL, &limit) == 2 && FD_ISSET(p[0], &reads) && FD_ISSET(p[1], &writes));
  CHECK(read(p[0], &byte, 1) == 1);
  struct timespec soon = {.tv_nsec = 1000000};
  FD_ZERO(&reads);
  FD_SET(p[0], &reads);
  CHECK(pselect(p[0] + 1, &reads, NULL, NULL, &soon, NULL) == 0 && !FD_ISSET(p[0], &reads));
  CHECK(close(p[1]) == 0 && poll(fds, 1, -1) == 1 && (fds[0].revents & POLLHUP));
  CHECK(close(p[0]) == 0 && poll(fds, 1, 0) == 1 && fds[0].revents == POLLNVAL);
  struct rlimit files, few;
  CHECK(getrlimit(RLIMIT_NOFILE, &files) == 0);
  few = files;
  few.rlim_cur = 2;
  CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0 && poll(fds, 2, 0) >= 0);
  CHECK_ERRNO(poll(fds, 3, 0), EINVAL);
  CHECK(setrlimit(RLIMIT_NOFILE, &files) == 0);
  puts("poll, select, pselect");
}

// To an epoll a duplicate of a descriptor is another one, whoever has made it, and whichever of them is closed.
static void epolls_of_duplicates(void) {
  int epoll = epoll_create1(0), event = eventfd(1, 0), other = dup(event), p[2], status;
  struct epoll_event out[4], add = {.events = EPOLLIN, .data.u32 = 1};
  CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, event, &add) == 0);
  CHECK_ERRNO(epoll_ctl(epoll, EPOLL_CTL_MOD, other, &add), ENOENT);
  add.data.u32 = 2;
  CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, other, &add) == 0);
  CHECK_ERRNO(epoll_ctl(epoll, EPOLL_CTL_ADD, other, &add), EEXIST);
  CHECK(epoll_wait(epoll, out, 4, 0) == 2 && out[0].data.u32 + out[1].data.u32 == 3);
  CHECK(epoll_ctl(epoll, EPOLL_CTL_DEL, event, NULL) == 0);
  CHECK_ERRNO(epoll_ctl(epoll, EPOLL_CTL_DEL, event, NULL), ENOENT);
  CHECK(epoll_wait(epoll, out, 4, 0) == 1 && out[0].data.u32 == 2);
  add.data.u32 = 3;
  CHECK(epoll_ctl(epoll, EPOLL_CTL_MOD, other, &add) == 0 && epoll_wait(epoll, out, 4, 0) == 1 && out[0].data.u32 == 3);
  // A second epoll has entries of its own.
  int second = epoll_create1(0);
  CHECK_ERRNO(epoll_ctl(second, EPOLL_CTL_DEL, other, NULL), ENOENT);
  CHECK(epoll_ctl(second, EPOLL_CTL_ADD, event, &add) == 0 && epoll_wait(second, out, 4, 0) == 1);
  // A child has the same numbers for the same files.
  fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    CHECK_ERRNO(epoll_ctl(epoll, EPOLL_CTL_ADD, other, &add), EEXIST);
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, event, &add) == 0);
    _exit(0);
  }
  CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
  CHECK(epoll_wait(epoll, out, 4, 0) == 2);
  // What is closed is watched as long as a duplicate is open; its number may be another file's meanwhile.
  CHECK(close(other) == 0 && epoll_wait(epoll, out, 4, 0) == 2);
  CHECK(pipe(p) == 0 && p[0] == other);
  CHECK_ERRNO(epoll_ctl(epoll, EPOLL_CTL_DEL, p[0], NULL), ENOENT);
  CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, p[0], &add) == 0 && epoll_wait(epoll, out, 4, 0) == 2);
  CHECK(close(event) == 0 && epoll_wait(epoll, out, 4, 0) == 0);
  // Nor does what is watched by another number stay open.
  const int writer = dup(p[1]);
  add.events = EPOLLOUT;
  CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, p[1], &add) == 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, writer, &add) == 0);
  CHECK(close(p[1]) == 0 && close(writer) == 0 && read(p[0], out, 1) == 0);
  CHECK(close(p[0]) == 0 && close(epoll) == 0 && close(second) == 0);
  puts("epoll and duplicates");
}

static void epolls(void) {
  int epoll = epoll_create1(EPOLL_CLOEXEC), p[2], event = eventfd(0, EFD_NONBLOCK);
  CHECK(fcntl(event, F_GETFL) == (O_RDWR | O_NONBLOCK));
  struct epoll_event out[4], add = {.events = EPOLLIN, .data.u64 = 0x1122334455667788};
  CHECK(epoll >= 0 && event >= 0 && pipe(p) == 0);
  CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, p[0], &add) == 0);
  CHECK_ERRNO(epoll_ctl(epoll, EPOLL_CTL_ADD, p[0], &add), EEXIST);
  add.data.u64 = 2;
  add.events = EPOLLIN | EPOLLET;
  CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, event, &add) == 0);
  CHECK(epoll_wait(epoll, out, 4, 0) == 0);
  CHECK(write(p[1], "x", 1) == 1);
  CHECK(epoll_wait(epoll, out, 4, -1) == 1 && out[0].data.u64 == 0x1122334455667788 && out[0].events == EPOLLIN);
  CHECK(eventfd_write(event, 3) == 0 && epoll_wait(epoll, out, 4, -1) == 2);
  CHECK(epoll_wait(epoll, out, 4, 0) == 1);  // the event was edge-triggered
  eventfd_t value;
  CHECK(eventfd_read(event, &value) == 0 && value == 3);
  CHECK_ERRNO(eventfd_read(event, &value), EAGAIN);
  add.events = EPOLLIN | EPOLLONESHOT;
  CHECK(epoll_ctl(epoll, EPOLL_CTL_MOD, p[0], &add) == 0);
  CHECK(epoll_wait(epoll, out, 4, 0) == 1 && epoll_wait(epoll, out, 4, 0) == 0);
  CHECK(epoll_ctl(epoll, EPOLL_CTL_DEL, p[0], NULL) == 0);
  CHECK_ERRNO(epoll_ctl(epoll, EPOLL_CTL_DEL, p[0], NULL), ENOENT);
  CHECK_ERRNO(epoll_wait(epoll, out, 0, 0), EINVAL);
  CHECK_ERRNO(epoll_wait(p[0], out, 1, 0), EINVAL);
  CHECK(close(epoll) == 0 && close(p[0]) == 0 && close(p[1]) == 0 && close(event) == 0);
  int semaphore = eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK);
  CHECK(eventfd_read(semaphore, &value) == 0 && value == 1 && eventfd_read(semaphore, &value) == 0);
  CHECK_ERRNO(eventfd_read(semaphore, &value), EAGAIN);
  CHECK(close(semaphore) == 0);
  puts("epoll, eventfd");
}

// One wait tells of all that is ready, if there is room for it: some programs take what they were not told of for idle.
static void many_ready(void) {
  enum { kMany = 1500 };
  struct rlimit files, most;
  CHECK(getrlimit(RLIMIT_NOFILE, &files) == 0);
  most = files;
  most.rlim_cur = most.rlim_max;
  CHECK(setrlimit(RLIMIT_NOFILE, &most) == 0);
  int epoll = epoll_create1(0);
  static int events[kMany];
  static struct epoll_event out[kMany];
  static char told[kMany];
  for (int i = 0; i < kMany; ++i) {
    struct epoll_event add = {.events = EPOLLIN, .data.u32 = (uint32_t)i};
    CHECK((events[i] = eventfd(1, 0)) >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, events[i], &add) == 0);
  }
  CHECK(epoll_wait(epoll, out, kMany, -1) == kMany);
  for (int i = 0; i < kMany; ++i) CHECK(!told[out[i].data.u32]++);
  for (int i = 0; i < kMany; ++i) CHECK(close(events[i]) == 0);
  CHECK(close(epoll) == 0 && setrlimit(RLIMIT_NOFILE, &files) == 0);
  puts("many ready at once");
}

static void timer_descriptors(void) {
  int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
  CHECK(timer >= 0);
  struct itimerspec spec = {.it_interval = {.tv_nsec = 2000000}, .it_value = {.tv_nsec = 1}}, now;
  CHECK(timerfd_settime(timer, 0, &spec, NULL) == 0);
  uint64_t expirations, total = 0;
  while (total < 3) {
    CHECK(read(timer, &expirations, 8) == 8 && expirations >= 1);
    total += expirations;
  }
  CHECK(timerfd_gettime(timer, &now) == 0 && now.it_interval.tv_nsec == 2000000);
  CHECK_ERRNO(read(timer, &expirations, 4), EINVAL);
  CHECK(close(timer) == 0);
  puts("timerfd");
}

static void* wake(void* arg) {
  struct timespec soon = {.tv_nsec = 3000000};
  nanosleep(&soon, NULL);
  CHECK(eventfd_write((int)(intptr_t)arg, 1) == 0);
  return NULL;
}
// One thread sleeps in epoll_wait while another makes what it waits for.
static void across_threads(void) {
  int epoll = epoll_create1(0), event = eventfd(0, 0);
  struct epoll_event add = {.events = EPOLLIN}, out;
  CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, event, &add) == 0);
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, wake, (void*)(intptr_t)event) == 0);
  CHECK(epoll_wait(epoll, &out, 1, -1) == 1);
  CHECK(pthread_join(thread, NULL) == 0);
  puts("woken in epoll_wait");
}

int main(void) {
  pipes();
  polling();
  epolls();
  epolls_of_duplicates();
  many_ready();
  timer_descriptors();
  across_threads();
  return 0;
}
