// For uring.c and its parts: files and rings to try things with, and the cases. Whoever includes it defines _GNU_SOURCE
// before any header.
#pragma once

#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ring.h"

enum { kPage = 4096 };
extern const char* directory;  // where files are made

static inline int open_file(const char* name, int flags) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", directory, name);
  int fd = open(path, flags, 0644);
  CHECK(fd >= 0);
  return fd;
}

// A file whose byte at offset i is pattern(i).
static inline unsigned char pattern(size_t i) { return (unsigned char)(i * 7 + i / 251); }
static inline int pattern_file(const char* name, size_t bytes) {
  int fd = open_file(name, O_RDWR | O_CREAT | O_TRUNC);
  unsigned char* data = malloc(bytes);
  CHECK(data);
  for (size_t i = 0; i < bytes; ++i) data[i] = pattern(i);
  CHECK(write(fd, data, bytes) == (ssize_t)bytes);
  free(data);
  return fd;
}
static inline bool is_pattern(const unsigned char* data, size_t offset, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i)
    if (data[i] != pattern(offset + i)) return false;
  return true;
}
static inline unsigned char* pages(size_t count) {
  unsigned char* p = mmap(NULL, count * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(p != MAP_FAILED);
  return p;
}

static inline void make(struct io_uring* ring, unsigned entries) {
  errno = -io_uring_queue_init(entries, ring, 0);
  CHECK(errno == 0);
}

static inline struct io_uring_sqe* entry(struct io_uring* ring, uint64_t user_data) {
  struct io_uring_sqe* sqe = io_uring_get_sqe(ring);
  CHECK(sqe);
  memset(sqe, 0, sizeof *sqe);
  sqe->user_data = user_data;
  return sqe;
}
// prep functions clear the entry
#define PREP(ring, data, call, ...)             \
  ({                                            \
    struct io_uring_sqe* sqe_ = entry(ring, 0); \
    call(sqe_, ##__VA_ARGS__);                  \
    sqe_->user_data = (data);                   \
    sqe_;                                       \
  })

// Waits for one completion, which must be of user_data; returns its result.
static inline int result(struct io_uring* ring, uint64_t user_data) {
  struct io_uring_cqe* cqe;
  CHECK(io_uring_wait_cqe(ring, &cqe) == 0);
  CHECK(cqe->user_data == user_data);
  int res = cqe->res;
  CHECK((cqe->flags & ~IORING_CQE_F_SOCK_NONEMPTY) == 0);
  io_uring_cqe_seen(ring, cqe);
  return res;
}
// `count` completions in any order; results by user_data below 16.
static inline void results(struct io_uring* ring, unsigned count, int* out) {
  for (; count; --count) {
    struct io_uring_cqe* cqe;
    CHECK(io_uring_wait_cqe(ring, &cqe) == 0);
    CHECK(cqe->user_data < 16);
    out[cqe->user_data] = cqe->res;
    io_uring_cqe_seen(ring, cqe);
  }
}
static inline int run(struct io_uring* ring) {
  CHECK(io_uring_submit(ring) == 1);
  return completed(ring);
}
static inline void nothing_waits(struct io_uring* ring) {
  struct io_uring_cqe* cqe;
  CHECK(io_uring_peek_cqe(ring, &cqe) == -EAGAIN);
}
static inline struct __kernel_timespec milliseconds(long ms) {
  return (struct __kernel_timespec){ms / 1000, ms % 1000 * 1000000};
}

// --- the cases: one in each run of the program ---

// uring_transfers.c
void transfers(void), limited(void), fixed_buffers(void), fixed_files(void);
// uring_order.c
void links(void), timeouts(void), polls(void);
// uring_completions.c
void overflow(void), completions_without_calls(void), descriptor(void), events(void), interrupted(void);
// uring_refused.c
void refused(void), probes(void);
// uring_rings.c
void threads(void), rings_in_entries(void), end_in_flight(void);
