// How completions of an io_uring arrive: in its queues, by its descriptor, by an eventfd, and beside signals.
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "uring.h"

static unsigned kernel_flags(struct io_uring* ring) { return __atomic_load_n(ring->sq.kflags, __ATOMIC_ACQUIRE); }

void overflow(void) {
  struct io_uring ring;
  struct io_uring_params params = {.flags = IORING_SETUP_CQSIZE, .cq_entries = 4};
  CHECK(io_uring_queue_init_params(4, &ring, &params) == 0 && params.cq_entries == 4 && params.sq_entries == 4);
  CHECK(params.features & IORING_FEAT_NODROP);
  // Completions in the order of their entries: the queue's four, and six that are kept back.
  for (uint64_t i = 0; i < 10; ++i) {
    PREP(&ring, i, io_uring_prep_nop);
    CHECK(io_uring_submit(&ring) == 1);
  }
  CHECK(io_uring_cq_ready(&ring) == 4 && (kernel_flags(&ring) & IORING_SQ_CQ_OVERFLOW));
  for (uint64_t i = 0; i < 10; ++i) CHECK(result(&ring, i) == 0);
  CHECK(!(kernel_flags(&ring) & IORING_SQ_CQ_OVERFLOW) && *ring.cq.koverflow == 0);
  nothing_waits(&ring);
  PREP(&ring, 1, io_uring_prep_nop);
  CHECK(run(&ring) == 0);
  io_uring_queue_exit(&ring);
  puts("overflow");
}

static void* write_later(void* arg) {
  usleep(20000);
  CHECK(write(*(int*)arg, "x", 1) == 1);
  return NULL;
}

// A program that only looks at its memory, and never calls.
void completions_without_calls(void) {
  struct io_uring ring;
  make(&ring, 8);
  int p[2];
  char byte;
  CHECK(pipe(p) == 0);
  PREP(&ring, 1, io_uring_prep_read, p[0], &byte, 1, 0);
  CHECK(io_uring_submit(&ring) == 1);
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, write_later, &p[1]) == 0);
  while (__atomic_load_n(ring.cq.ktail, __ATOMIC_ACQUIRE) == 0) sched_yield();
  CHECK(pthread_join(thread, NULL) == 0 && result(&ring, 1) == 1);
  io_uring_queue_exit(&ring);
  puts("completions without calls");
}

void descriptor(void) {
  struct io_uring ring;
  make(&ring, 8);
  // Poll and epoll know whether completions wait.
  struct pollfd look = {.fd = ring.ring_fd, .events = POLLIN};
  struct epoll_event add = {.events = EPOLLIN, .data.u64 = 4}, out;
  int epoll = epoll_create1(0), p[2];
  char byte;
  CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, ring.ring_fd, &add) == 0);
  for (int round = 0; round < 3; ++round) {
    CHECK(poll(&look, 1, 0) == 0 && epoll_wait(epoll, &out, 1, 0) == 0);
    PREP(&ring, 1, io_uring_prep_nop);
    CHECK(io_uring_submit(&ring) == 1 && poll(&look, 1, -1) == 1 && (look.revents & POLLIN));
    CHECK(epoll_wait(epoll, &out, 1, -1) == 1 && out.data.u64 == 4);
    CHECK(result(&ring, 1) == 0);
  }
  CHECK(pipe(p) == 0);
  PREP(&ring, 1, io_uring_prep_read, p[0], &byte, 1, 0);
  CHECK(io_uring_submit(&ring) == 1 && poll(&look, 1, 0) == 0);
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, write_later, &p[1]) == 0);
  int found;
  do found = epoll_wait(epoll, &out, 1, -1);  // Linux interrupts waits of whoever submitted what completes
  while (found == -1 && errno == EINTR);
  CHECK(found == 1 && poll(&look, 1, 0) == 1);
  CHECK(pthread_join(thread, NULL) == 0 && result(&ring, 1) == 1);

  // By a place of this thread's instead of the descriptor.
  CHECK(io_uring_register_ring_fd(&ring) == 1);
  PREP(&ring, 1, io_uring_prep_nop);
  CHECK(run(&ring) == 0 && ring.enter_ring_fd != ring.ring_fd);
  CHECK(io_uring_unregister_ring_fd(&ring) == 1);
  CHECK_ERRNO((int)syscall(SYS_io_uring_enter, 3, 0, 0, IORING_ENTER_REGISTERED_RING, NULL, 0), EBADF);
  CHECK_ERRNO((int)syscall(SYS_io_uring_enter, 77, 0, 0, IORING_ENTER_REGISTERED_RING, NULL, 0), EINVAL);

  CHECK_ERRNO(read(ring.ring_fd, &byte, 1), EINVAL);
  CHECK_ERRNO(write(ring.ring_fd, &byte, 1), EINVAL);
  CHECK(fcntl(ring.ring_fd, F_GETFD) == FD_CLOEXEC);
  CHECK(mmap(NULL, kPage, PROT_READ, MAP_SHARED, ring.ring_fd, 0x20000000) == MAP_FAILED);

  // Closed with a copy left, then without.
  int copy = dup(ring.ring_fd);
  CHECK(copy >= 0 && close(ring.ring_fd) == 0);
  ring.ring_fd = ring.enter_ring_fd = copy;
  PREP(&ring, 1, io_uring_prep_nop);
  CHECK(run(&ring) == 0);
  PREP(&ring, 1, io_uring_prep_read, p[0], &byte, 1, 0);  // in flight at the end
  CHECK(io_uring_submit(&ring) == 1);
  io_uring_queue_exit(&ring);
  CHECK_ERRNO((int)syscall(SYS_io_uring_enter, copy, 0, 0, 0, NULL, 0), EBADF);
  CHECK_ERRNO((int)syscall(SYS_io_uring_enter, p[0], 0, 0, 0, NULL, 0), EOPNOTSUPP);
  // Of the read that was in flight nothing is left.
  CHECK(write(p[1], "y", 1) == 1 && read(p[0], &byte, 1) == 1 && byte == 'y');
  close(epoll);
  puts("the descriptor");
}

void events(void) {
  struct io_uring ring;
  make(&ring, 8);
  int event = eventfd(0, EFD_NONBLOCK), p[2];
  eventfd_t count;
  char byte;
  CHECK(io_uring_register_eventfd(&ring, event) == 0);
  CHECK(io_uring_register_eventfd(&ring, event) == -EBUSY);
  PREP(&ring, 1, io_uring_prep_nop);
  CHECK(run(&ring) == 0 && eventfd_read(event, &count) == 0 && count >= 1);
  CHECK_ERRNO(eventfd_read(event, &count), EAGAIN);
  CHECK(io_uring_cq_eventfd_toggle(&ring, false) == 0);
  PREP(&ring, 1, io_uring_prep_nop);
  CHECK(run(&ring) == 0);
  CHECK_ERRNO(eventfd_read(event, &count), EAGAIN);
  CHECK(io_uring_cq_eventfd_toggle(&ring, true) == 0);
  // Full: nobody waits for that.
  CHECK(eventfd_write(event, UINT64_MAX - 1) == 0);
  PREP(&ring, 1, io_uring_prep_nop);
  CHECK(run(&ring) == 0 && eventfd_read(event, &count) == 0);
  CHECK(io_uring_unregister_eventfd(&ring) == 0);
  CHECK(io_uring_unregister_eventfd(&ring) == -ENXIO);
  PREP(&ring, 1, io_uring_prep_nop);
  CHECK(run(&ring) == 0);
  CHECK_ERRNO(eventfd_read(event, &count), EAGAIN);
  CHECK(pipe(p) == 0 && io_uring_register_eventfd(&ring, p[0]) == -EINVAL);
  CHECK(io_uring_register_eventfd(&ring, 9999) == -EBADF);

  // Only what was not done at once.
  CHECK(io_uring_register_eventfd_async(&ring, event) == 0);
  PREP(&ring, 1, io_uring_prep_nop);
  CHECK(run(&ring) == 0);
  CHECK_ERRNO(eventfd_read(event, &count), EAGAIN);
  CHECK(io_uring_unregister_eventfd(&ring) == 0);

  // The completion is there when the event is.
  int blocking = eventfd(0, 0);
  CHECK(io_uring_register_eventfd(&ring, blocking) == 0);
  for (int round = 0; round < 20; ++round) {
    PREP(&ring, 1, io_uring_prep_read, p[0], &byte, 1, 0);
    CHECK(io_uring_submit(&ring) == 1);
    CHECK(write(p[1], "x", 1) == 1);
    CHECK(eventfd_read(blocking, &count) == 0 && io_uring_cq_ready(&ring) == 1);
    CHECK(result(&ring, 1) == 1);
  }
  io_uring_queue_exit(&ring);
  puts("eventfd");
}

// --- signals ---

static volatile sig_atomic_t signals;
static void on_signal(int signal) {
  (void)signal;
  ++signals;
}
static pthread_t main_thread;
static void* signal_later(void* arg) {
  for (int i = 0; i < (int)(intptr_t)arg; ++i) {
    usleep(20000);
    CHECK(pthread_kill(main_thread, SIGUSR1) == 0);
  }
  return NULL;
}

void interrupted(void) {
  struct io_uring ring;
  make(&ring, 8);
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
  CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
  main_thread = pthread_self();
  pthread_t thread;
  struct io_uring_cqe* cqe;
  CHECK(pthread_create(&thread, NULL, signal_later, (void*)1) == 0);
  CHECK(io_uring_wait_cqe(&ring, &cqe) == -EINTR && signals == 1);  // never restarted
  CHECK(pthread_join(thread, NULL) == 0);
  // The mask is the wait's own: blocked outside of it, and let in for as long as it lasts.
  sigset_t set, none;
  sigemptyset(&none);
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  CHECK(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0 && raise(SIGUSR1) == 0 && signals == 1);
  struct __kernel_timespec soon = milliseconds(30);
  CHECK(io_uring_wait_cqes(&ring, &cqe, 1, NULL, &none) == -EINTR && signals == 2);
  CHECK(raise(SIGUSR1) == 0);
  CHECK(io_uring_wait_cqes(&ring, &cqe, 1, &soon, NULL) == -ETIME && signals == 2);
  CHECK(pthread_sigmask(SIG_UNBLOCK, &set, NULL) == 0 && signals == 3);
  CHECK(io_uring_wait_cqes(&ring, &cqe, 1, &soon, &set) == -ETIME);
  // What is there counts more than the signal.
  PREP(&ring, 1, io_uring_prep_nop);
  CHECK(io_uring_submit(&ring) == 1);
  CHECK(pthread_create(&thread, NULL, signal_later, (void*)1) == 0);
  CHECK(syscall(SYS_io_uring_enter, ring.ring_fd, 0, 2, IORING_ENTER_GETEVENTS, NULL, 8) == 0 && signals == 4);
  CHECK(pthread_join(thread, NULL) == 0 && result(&ring, 1) == 0);
  io_uring_queue_exit(&ring);
  puts("signals");
}
