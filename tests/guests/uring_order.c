// Entries of an io_uring that wait: for each other, for a time, for a descriptor, until they are cancelled.
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

#include "uring.h"

// A chain of a copy, as link-cp of liburing does it.
static void copy_by_links(struct io_uring* ring, int fd) {
  int got[16];
  int out = open_file("links-out", O_RDWR | O_CREAT | O_TRUNC);
  for (int at = 0; at < 10000; at += 1000) {
    char block[1000];
    PREP(ring, 1, io_uring_prep_read, fd, block, 1000, at)->flags |= IOSQE_IO_LINK;
    PREP(ring, 2, io_uring_prep_write, out, block, 1000, at);
    CHECK(io_uring_submit_and_wait(ring, 2) == 2);
    results(ring, 2, got);
    CHECK(got[1] == 1000 && got[2] == 1000);
  }
}

void links(void) {
  struct io_uring ring;
  make(&ring, 8);
  int fd = pattern_file("links", 10000), p[2], got[16];
  CHECK(pipe(p) == 0);
  char a[16] = "", b[16] = "";
  // The second begins when the first is over.
  PREP(&ring, 1, io_uring_prep_read, p[0], a, 5, 0)->flags |= IOSQE_IO_LINK;
  PREP(&ring, 2, io_uring_prep_read, p[0], b, 5, 0);
  CHECK(io_uring_submit(&ring) == 2);
  nothing_waits(&ring);
  CHECK(write(p[1], "firstsecond", 11) == 11);
  results(&ring, 2, got);
  CHECK(got[1] == 5 && got[2] == 5 && memcmp(a, "first", 5) == 0 && memcmp(b, "secon", 5) == 0);
  CHECK(read(p[0], a, 1) == 1);
  // A short read breaks the chain; a hard link holds.
  char big[kPage];
  PREP(&ring, 1, io_uring_prep_read, fd, big, kPage, 10000 - 10)->flags |= IOSQE_IO_LINK;
  PREP(&ring, 2, io_uring_prep_nop)->flags |= IOSQE_IO_LINK;
  PREP(&ring, 3, io_uring_prep_nop);
  CHECK(io_uring_submit(&ring) == 3);
  results(&ring, 3, got);
  CHECK(got[1] == 10 && got[2] == -ECANCELED && got[3] == -ECANCELED);
  PREP(&ring, 1, io_uring_prep_read, fd, big, kPage, 10000 - 10)->flags |= IOSQE_IO_HARDLINK;
  PREP(&ring, 2, io_uring_prep_nop);
  CHECK(io_uring_submit(&ring) == 2);
  results(&ring, 2, got);
  CHECK(got[1] == 10 && got[2] == 0);
  // An entry that fails takes those behind it along, not those before.
  PREP(&ring, 1, io_uring_prep_nop)->flags |= IOSQE_IO_LINK;
  PREP(&ring, 2, io_uring_prep_read, 9999, big, 10, 0)->flags |= IOSQE_IO_LINK;
  PREP(&ring, 3, io_uring_prep_nop);
  PREP(&ring, 4, io_uring_prep_nop);
  CHECK(io_uring_submit(&ring) == 4);
  results(&ring, 4, got);
  CHECK(got[1] == 0 && got[2] == -EBADF && got[3] == -ECANCELED && got[4] == 0);
  // One that is none at all ends the batch, and the chain it is in never begins.
  PREP(&ring, 1, io_uring_prep_nop)->flags |= IOSQE_IO_LINK;
  entry(&ring, 2)->opcode = 200;
  PREP(&ring, 3, io_uring_prep_nop);
  CHECK(io_uring_submit(&ring) == 2);
  results(&ring, 2, got);
  CHECK(got[1] == -ECANCELED && got[2] == -EINVAL);
  CHECK(io_uring_submit(&ring) == 1 && result(&ring, 3) == 0);
  // A drain waits for all that was before it.
  PREP(&ring, 1, io_uring_prep_read, p[0], a, 5, 0);
  PREP(&ring, 2, io_uring_prep_nop)->flags |= IOSQE_IO_DRAIN;
  CHECK(io_uring_submit(&ring) == 2);
  nothing_waits(&ring);
  CHECK(write(p[1], "drain", 5) == 5 && result(&ring, 1) == 5 && result(&ring, 2) == 0);
  PREP(&ring, 1, io_uring_prep_nop)->flags |= IOSQE_ASYNC;
  CHECK(run(&ring) == 0);
  copy_by_links(&ring, fd);
  io_uring_queue_exit(&ring);
  puts("links, drains");
}

// A time for another entry.
static void link_timeouts(struct io_uring* ring, struct __kernel_timespec* soon, struct __kernel_timespec* late) {
  int got[16];
  int p[2];
  char byte;
  CHECK(pipe(p) == 0);
  PREP(ring, 1, io_uring_prep_read, p[0], &byte, 1, 0)->flags |= IOSQE_IO_LINK;
  PREP(ring, 2, io_uring_prep_link_timeout, soon, 0);
  CHECK(io_uring_submit(ring) == 2);
  results(ring, 2, got);
  CHECK((got[1] == -ECANCELED || got[1] == -EINTR) && got[2] == -ETIME);
  PREP(ring, 1, io_uring_prep_read, p[0], &byte, 1, 0)->flags |= IOSQE_IO_LINK;
  PREP(ring, 2, io_uring_prep_link_timeout, late, 0);
  CHECK(io_uring_submit(ring) == 2 && write(p[1], "x", 1) == 1);
  results(ring, 2, got);
  CHECK(got[1] == 1 && got[2] == -ECANCELED);
}

// Limits of the wait itself.
static void timed_waits(struct io_uring* ring, struct __kernel_timespec* soon, struct __kernel_timespec* late) {
  int got[16];
  struct io_uring_cqe* cqe;
  CHECK(io_uring_wait_cqe_timeout(ring, &cqe, soon) == -ETIME);
  PREP(ring, 1, io_uring_prep_nop);
  CHECK(io_uring_submit(ring) == 1);
  CHECK(io_uring_wait_cqes(ring, &cqe, 2, soon, NULL) == 0);  // one of two: that is what there is
  io_uring_cq_advance(ring, 1);
  // One that runs out ends a wait for more than there is; one that is removed does not.
  PREP(ring, 1, io_uring_prep_timeout, soon, 0, 0);
  CHECK(io_uring_submit_and_wait(ring, 5) == 1);
  CHECK(io_uring_cq_ready(ring) == 1 && completed(ring) == -ETIME);
  PREP(ring, 1, io_uring_prep_timeout, late, 0, 0);
  PREP(ring, 2, io_uring_prep_timeout_remove, 1, 0);
  PREP(ring, 3, io_uring_prep_timeout, soon, 0, 0);
  CHECK(io_uring_submit_and_wait(ring, 5) == 3 && io_uring_cq_ready(ring) == 3);
  results(ring, 3, got);
  CHECK(got[1] == -ECANCELED && got[2] == 0 && got[3] == -ETIME);
}

void timeouts(void) {
  struct io_uring ring;
  make(&ring, 8);
  struct __kernel_timespec soon = milliseconds(20), late = milliseconds(3600 * 1000);
  int got[16];
  PREP(&ring, 1, io_uring_prep_timeout, &soon, 0, 0);
  CHECK(run(&ring) == -ETIME);
  PREP(&ring, 1, io_uring_prep_timeout, &soon, 0, IORING_TIMEOUT_ETIME_SUCCESS);
  CHECK(run(&ring) == -ETIME);
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  struct __kernel_timespec at = {now.tv_sec, now.tv_nsec};
  PREP(&ring, 1, io_uring_prep_timeout, &at, 0, IORING_TIMEOUT_ABS);
  CHECK(run(&ring) == -ETIME);
  clock_gettime(CLOCK_REALTIME, &now);
  at = (struct __kernel_timespec){now.tv_sec, now.tv_nsec};
  PREP(&ring, 1, io_uring_prep_timeout, &at, 0, IORING_TIMEOUT_ABS | IORING_TIMEOUT_REALTIME);
  CHECK(run(&ring) == -ETIME);
  // By the number of completions.
  PREP(&ring, 1, io_uring_prep_timeout, &late, 2, 0);
  PREP(&ring, 2, io_uring_prep_nop);
  PREP(&ring, 3, io_uring_prep_nop);
  CHECK(io_uring_submit(&ring) == 3);
  results(&ring, 3, got);
  CHECK(got[1] == 0 && got[2] == 0 && got[3] == 0);
  // Removed, changed, not there.
  PREP(&ring, 1, io_uring_prep_timeout, &late, 0, 0);
  CHECK(io_uring_submit(&ring) == 1);
  PREP(&ring, 2, io_uring_prep_timeout_remove, 1, 0);
  CHECK(io_uring_submit(&ring) == 1);
  results(&ring, 2, got);
  CHECK(got[1] == -ECANCELED && got[2] == 0);
  PREP(&ring, 2, io_uring_prep_timeout_remove, 1, 0);
  CHECK(run(&ring) == -ENOENT);
  PREP(&ring, 1, io_uring_prep_timeout, &late, 0, 0);
  PREP(&ring, 2, io_uring_prep_timeout_update, &soon, 1, 0);
  CHECK(io_uring_submit(&ring) == 2);
  results(&ring, 2, got);
  CHECK(got[1] == -ETIME && got[2] == 0);
  PREP(&ring, 1, io_uring_prep_timeout, (void*)wild_address, 0, 0);
  CHECK(run(&ring) == -EFAULT);
  PREP(&ring, 1, io_uring_prep_timeout, &soon, 0, 0)->len = 2;
  CHECK(run(&ring) == -EINVAL);
  link_timeouts(&ring, &soon, &late);
  timed_waits(&ring, &soon, &late);
  // One that fires again (IORING_TIMEOUT_MULTISHOT): refused, or twice if it says twice.
  PREP(&ring, 1, io_uring_prep_timeout, &soon, 2, 1u << 6);
  if (run(&ring) != -EINVAL) CHECK(result(&ring, 1) == -ETIME);
  nothing_waits(&ring);
  io_uring_queue_exit(&ring);
  puts("timeouts");
}

void polls(void) {
  struct io_uring ring;
  make(&ring, 8);
  int p[2], got[16];
  CHECK(pipe(p) == 0);
  PREP(&ring, 1, io_uring_prep_poll_add, p[1], POLLOUT);
  CHECK(run(&ring) == POLLOUT);
  PREP(&ring, 1, io_uring_prep_poll_add, p[0], POLLIN);
  CHECK(io_uring_submit(&ring) == 1);
  nothing_waits(&ring);
  CHECK(write(p[1], "x", 1) == 1 && result(&ring, 1) == POLLIN);
  char byte;
  CHECK(read(p[0], &byte, 1) == 1);
  PREP(&ring, 1, io_uring_prep_poll_add, p[0], POLLIN);
  CHECK(io_uring_submit(&ring) == 1);
  PREP(&ring, 2, io_uring_prep_poll_remove, 1);
  CHECK(io_uring_submit(&ring) == 1);
  results(&ring, 2, got);
  CHECK(got[1] == -ECANCELED && got[2] == 0);
  PREP(&ring, 2, io_uring_prep_poll_remove, 1);
  CHECK(run(&ring) == -ENOENT);
  PREP(&ring, 1, io_uring_prep_poll_add, 9999, POLLIN);
  CHECK(run(&ring) == -EBADF);
  // Cancelled by what it is, and by what it waits for.
  PREP(&ring, 1, io_uring_prep_read, p[0], &byte, 1, 0);
  CHECK(io_uring_submit(&ring) == 1);
  PREP(&ring, 2, io_uring_prep_cancel64, 1, 0);
  CHECK(io_uring_submit(&ring) == 1);
  results(&ring, 2, got);
  CHECK((got[1] == -ECANCELED || got[1] == -EINTR) && (got[2] == 0 || got[2] == -EALREADY));
  PREP(&ring, 1, io_uring_prep_poll_add, p[0], POLLIN);
  PREP(&ring, 2, io_uring_prep_cancel_fd, p[0], 0);
  CHECK(io_uring_submit(&ring) == 2);
  results(&ring, 2, got);
  CHECK(got[1] == -ECANCELED && got[2] == 0);
  PREP(&ring, 2, io_uring_prep_cancel64, 1, 0);
  CHECK(run(&ring) == -ENOENT);
  io_uring_queue_exit(&ring);
  puts("polls, cancels");
}
