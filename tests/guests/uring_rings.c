// Rings of many threads, and rings that end with entries in flight.
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/uio.h>
#include <unistd.h>

#include "uring.h"

enum { kThreads = 4, kRounds = 200 };
static struct io_uring shared_rings[2];

// Each thread has a ring of its own, and all of them one more, on which they take turns; a third of the reads wait.
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static void* submitter(void* arg) {
  unsigned number = (unsigned)(uintptr_t)arg;
  struct io_uring own;
  make(&own, 16);
  char name[32];
  snprintf(name, sizeof name, "threads-%u", number);
  int fd = pattern_file(name, 100000), p[2];
  CHECK(pipe(p) == 0);
  unsigned char* buffer = pages(32);
  struct iovec iov = {buffer, 16 * kPage};
  CHECK(io_uring_register_buffers(&own, &iov, 1) == 0);
  for (unsigned round = 0; round < kRounds; ++round) {
    unsigned at = (round * 7919 + number * 31) % 60000;
    int got[16];
    char byte = 0;
    PREP(&own, 1, io_uring_prep_read_fixed, fd, buffer, 8 * kPage, at, 0);
    PREP(&own, 2, io_uring_prep_read, p[0], &byte, 1, 0);
    PREP(&own, 3, io_uring_prep_read, fd, buffer + 20 * kPage, 5 * kPage, at + 1);
    CHECK(io_uring_submit(&own) == 3 && write(p[1], "x", 1) == 1);
    results(&own, 3, got);
    CHECK(got[1] == 8 * kPage && got[2] == 1 && got[3] == 5 * kPage && byte == 'x');
    CHECK(is_pattern(buffer, at, 8 * kPage) && is_pattern(buffer + 20 * kPage, at + 1, 5 * kPage));
    struct io_uring* shared = &shared_rings[round % 2];
    CHECK(pthread_mutex_lock(&turn) == 0);
    PREP(shared, 5, io_uring_prep_read, fd, buffer, kPage, at + 2);
    CHECK(io_uring_submit_and_wait(shared, 1) == 1 && result(shared, 5) == kPage && is_pattern(buffer, at + 2, kPage));
    CHECK(pthread_mutex_unlock(&turn) == 0);
  }
  io_uring_queue_exit(&own);
  return NULL;
}

void threads(void) {
  pthread_t all[kThreads];
  for (int i = 0; i < 2; ++i) make(&shared_rings[i], 4);
  for (unsigned i = 0; i < kThreads; ++i) CHECK(pthread_create(&all[i], NULL, submitter, (void*)(uintptr_t)i) == 0);
  for (unsigned i = 0; i < kThreads; ++i) CHECK(pthread_join(all[i], NULL) == 0);
  for (int i = 0; i < 2; ++i) io_uring_queue_exit(&shared_rings[i]);
  printf("%d threads, %d rounds\n", kThreads, kRounds);
}

// Entries about rings, the own and another, that come to their turn when both descriptors are closed already.
void rings_in_entries(void) {
  for (int round = 0; round < 20; ++round) {
    struct io_uring one, other;
    struct __kernel_timespec soon = milliseconds(2);
    make(&one, 8);
    make(&other, 8);
    const int rings[] = {one.ring_fd, other.ring_fd};
    for (int i = 0; i < 2; ++i) {
      struct io_uring* ring = i ? &other : &one;
      PREP(ring, 1, io_uring_prep_timeout, &soon, 0, 0)->flags |= IOSQE_IO_HARDLINK;
      PREP(ring, 2, io_uring_prep_read, rings[i], pages(1), 8, 0)->flags |= IOSQE_IO_HARDLINK;
      PREP(ring, 3, io_uring_prep_fsync, rings[!i], 0)->flags |= IOSQE_IO_HARDLINK;
      PREP(ring, 4, io_uring_prep_cancel_fd, rings[i], 0)->flags |= IOSQE_IO_HARDLINK;
      PREP(ring, 5, io_uring_prep_nop);
      CHECK(io_uring_submit(ring) == 5);
    }
    CHECK(close(rings[0]) == 0 && close(rings[1]) == 0);
    if (round % 2) usleep(3000);
  }
  printf("rings that are named in entries end with their descriptors\n");
}

// The program ends with entries in flight, in a thread of its own and in this one.
void end_in_flight(void) {
  static struct io_uring ring;
  make(&ring, 8);
  int p[2];
  static char byte;
  CHECK(pipe(p) == 0);
  struct __kernel_timespec late = milliseconds(3600 * 1000);
  PREP(&ring, 1, io_uring_prep_read, p[0], &byte, 1, 0);
  PREP(&ring, 2, io_uring_prep_timeout, &late, 0, 0);
  PREP(&ring, 3, io_uring_prep_poll_add, p[0], POLLIN)->flags |= IOSQE_IO_LINK;
  PREP(&ring, 4, io_uring_prep_nop);
  PREP(&ring, 5, io_uring_prep_nop)->flags |= IOSQE_IO_DRAIN;
  CHECK(io_uring_submit(&ring) == 5);
  puts("ends in flight");
}
