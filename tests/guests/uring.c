// io_uring through liburing: every operation that is served, what is refused, and what happens when queues are full.
// uring CASE DIRECTORY; `uring --list` names the cases.
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "ring.h"

enum { kPage = 4096 };
static const char* directory;

static int open_file(const char* name, int flags) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", directory, name);
  int fd = open(path, flags, 0644);
  CHECK(fd >= 0);
  return fd;
}

// A file whose byte at offset i is pattern(i).
static unsigned char pattern(size_t i) { return (unsigned char)(i * 7 + i / 251); }
static int pattern_file(const char* name, size_t bytes) {
  int fd = open_file(name, O_RDWR | O_CREAT | O_TRUNC);
  unsigned char* data = malloc(bytes);
  CHECK(data);
  for (size_t i = 0; i < bytes; ++i) data[i] = pattern(i);
  CHECK(write(fd, data, bytes) == (ssize_t)bytes);
  free(data);
  return fd;
}
static bool is_pattern(const unsigned char* data, size_t offset, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i)
    if (data[i] != pattern(offset + i)) return false;
  return true;
}
static unsigned char* pages(size_t count) {
  unsigned char* p = mmap(NULL, count * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(p != MAP_FAILED);
  return p;
}

static void make(struct io_uring* ring, unsigned entries) {
  errno = -io_uring_queue_init(entries, ring, 0);
  CHECK(errno == 0);
}

static struct io_uring_sqe* entry(struct io_uring* ring, uint64_t user_data) {
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
static int result(struct io_uring* ring, uint64_t user_data) {
  struct io_uring_cqe* cqe;
  CHECK(io_uring_wait_cqe(ring, &cqe) == 0);
  CHECK(cqe->user_data == user_data);
  int res = cqe->res;
  CHECK((cqe->flags & ~IORING_CQE_F_SOCK_NONEMPTY) == 0);
  io_uring_cqe_seen(ring, cqe);
  return res;
}
// `count` completions in any order; results by user_data below 16.
static void results(struct io_uring* ring, unsigned count, int* out) {
  for (; count; --count) {
    struct io_uring_cqe* cqe;
    CHECK(io_uring_wait_cqe(ring, &cqe) == 0);
    CHECK(cqe->user_data < 16);
    out[cqe->user_data] = cqe->res;
    io_uring_cqe_seen(ring, cqe);
  }
}
static int run(struct io_uring* ring) {
  CHECK(io_uring_submit(ring) == 1);
  return completed(ring);
}
static void nothing_waits(struct io_uring* ring) {
  struct io_uring_cqe* cqe;
  CHECK(io_uring_peek_cqe(ring, &cqe) == -EAGAIN);
}

// --- reading and writing ---

static void transfers(void) {
  struct io_uring ring;
  make(&ring, 8);
  enum { kBytes = 300000 };
  int fd = pattern_file("transfers", kBytes);
  unsigned char* buffer = pages(100);

  PREP(&ring, 1, io_uring_prep_read, fd, buffer + 5, 100000, 77);
  CHECK(run(&ring) == 100000 && is_pattern(buffer + 5, 77, 100000));
  PREP(&ring, 1, io_uring_prep_read, fd, buffer, kPage, kBytes - 10);
  CHECK(run(&ring) == 10 && is_pattern(buffer, kBytes - 10, 10));
  PREP(&ring, 1, io_uring_prep_read, fd, buffer, kPage, kBytes);
  CHECK(run(&ring) == 0);

  struct iovec iov[4] = {
      {buffer, 1}, {buffer + 3 * kPage - 1, 2}, {buffer + 9 * kPage, 0}, {buffer + 20 * kPage, 70000}};
  PREP(&ring, 1, io_uring_prep_readv, fd, iov, 4, 1000);
  CHECK(run(&ring) == 70003 && is_pattern(buffer, 1000, 1) && is_pattern(buffer + 3 * kPage - 1, 1001, 2) &&
        is_pattern(buffer + 20 * kPage, 1003, 70000));

  // At the file's own offset.
  CHECK(lseek(fd, 50, SEEK_SET) == 50);
  PREP(&ring, 1, io_uring_prep_read, fd, buffer, 100, -1);
  CHECK(run(&ring) == 100 && is_pattern(buffer, 50, 100) && lseek(fd, 0, SEEK_CUR) == 150);

  int out = open_file("written", O_RDWR | O_CREAT | O_TRUNC);
  for (size_t i = 0; i < 100 * kPage; ++i) buffer[i] = pattern(i);
  PREP(&ring, 1, io_uring_prep_write, out, buffer, 5000, 0);
  CHECK(run(&ring) == 5000);
  struct iovec parts[3] = {{buffer + 5000, 10000}, {buffer + 15000, 1}, {buffer + 15001, 50000}};
  PREP(&ring, 1, io_uring_prep_writev, out, parts, 3, 5000);
  CHECK(run(&ring) == 60001);
  PREP(&ring, 1, io_uring_prep_writev2, out, parts, 1, -1, RWF_APPEND);
  CHECK(run(&ring) == 10000);
  PREP(&ring, 1, io_uring_prep_fsync, out, 0);
  CHECK(run(&ring) == 0);
  PREP(&ring, 1, io_uring_prep_fsync, out, IORING_FSYNC_DATASYNC);
  CHECK(run(&ring) == 0);
  CHECK(pread(out, buffer, 80000, 0) == 75001);
  CHECK(is_pattern(buffer, 0, 65001) && is_pattern(buffer + 65001, 5000, 10000));

  // Many at once, out of order, of entries used again and again.
  unsigned char* many = pages(64);
  for (int round = 0; round < 50; ++round) {
    memset(many, 0, 64 * kPage);
    for (unsigned i = 0; i < 8; ++i) PREP(&ring, i, io_uring_prep_read, fd, many + i * 8 * kPage, 6 * kPage, i * 12345);
    CHECK(io_uring_submit_and_wait(&ring, 8) == 8);
    int got[16];
    results(&ring, 8, got);
    for (unsigned i = 0; i < 8; ++i)
      CHECK(got[i] == 6 * kPage && is_pattern(many + i * 8 * kPage, i * 12345, 6 * kPage));
  }
  nothing_waits(&ring);

  // A buffer that is only partly there takes what is there; none of it there is an error.
  CHECK(munmap(many + kPage, kPage) == 0);
  PREP(&ring, 1, io_uring_prep_read, fd, many + kPage, 10, 0);
  CHECK(run(&ring) == -EFAULT);
  PREP(&ring, 1, io_uring_prep_write, out, many + kPage, 10, 0);
  CHECK(run(&ring) == -EFAULT);
  CHECK(mprotect(many, kPage, PROT_READ) == 0);
  PREP(&ring, 1, io_uring_prep_read, fd, many, 10, 0);
  CHECK(run(&ring) == -EFAULT);
  PREP(&ring, 1, io_uring_prep_read, fd, NULL, 0, 0);
  CHECK(run(&ring) == 0);

  // What can be read is a buffer too: of this file, mapped.
  unsigned char* mapped = mmap(NULL, 20 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  CHECK(mapped != MAP_FAILED);
  PREP(&ring, 1, io_uring_prep_read, fd, mapped + 10 * kPage, 100, 3);
  CHECK(run(&ring) == 100 && is_pattern(mapped + 10 * kPage, 3, 100));
  PREP(&ring, 1, io_uring_prep_write, out, mapped, 100, 0);
  CHECK(run(&ring) == 100);

  int p[2];
  CHECK(pipe(p) == 0);
  PREP(&ring, 1, io_uring_prep_read, p[0], buffer, 100, 0);
  CHECK(io_uring_submit(&ring) == 1);
  nothing_waits(&ring);
  CHECK(write(p[1], "pipe", 4) == 4 && result(&ring, 1) == 4 && memcmp(buffer, "pipe", 4) == 0);
  PREP(&ring, 1, io_uring_prep_write, p[1], "back", 4, 0);
  CHECK(run(&ring) == 4 && read(p[0], buffer, 10) == 4 && memcmp(buffer, "back", 4) == 0);
  int pair[2];
  CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
  PREP(&ring, 1, io_uring_prep_read, pair[0], buffer, 100, 0);
  CHECK(io_uring_submit(&ring) == 1 && write(pair[1], "socket", 6) == 6 && result(&ring, 1) == 6);
  int event = eventfd(5, 0);
  uint64_t value = 0;
  PREP(&ring, 1, io_uring_prep_read, event, &value, 8, 0);
  CHECK(run(&ring) == 8 && value == 5);

  // Nobody reads the pipe: an error, and the signal.
  struct sigaction ignore = {.sa_handler = SIG_IGN};
  sigaction(SIGPIPE, &ignore, NULL);
  close(p[0]);
  PREP(&ring, 1, io_uring_prep_write, p[1], "x", 1, 0);
  CHECK(run(&ring) == -EPIPE);

  int memory = memfd_create("memory", 0);
  PREP(&ring, 1, io_uring_prep_write, memory, buffer, 3000, -1);
  CHECK(run(&ring) == 3000);
  PREP(&ring, 1, io_uring_prep_write, memory, buffer, 3000, -1);
  CHECK(run(&ring) == 3000);
  PREP(&ring, 1, io_uring_prep_write, memory, buffer, 3000, 10000);
  CHECK(run(&ring) == 3000 && lseek(memory, 0, SEEK_END) == 13000);
  io_uring_queue_exit(&ring);
  puts("read, write, readv, writev, fsync");
}

// A file that may not grow beyond RLIMIT_FSIZE.
static void limited(void) {
  struct io_uring ring;
  make(&ring, 8);
  struct rlimit limit = {10000, 10000};
  CHECK(signal(SIGXFSZ, SIG_IGN) != SIG_ERR && setrlimit(RLIMIT_FSIZE, &limit) == 0);
  int fd = open_file("limited", O_RDWR | O_CREAT | O_TRUNC);
  unsigned char* buffer = pages(4);
  struct iovec iov[2] = {{buffer, 9000}, {buffer + 3 * kPage, 3000}}, whole = {buffer, 4 * kPage};
  PREP(&ring, 1, io_uring_prep_writev, fd, iov, 2, 0);
  CHECK(run(&ring) == 10000);
  PREP(&ring, 1, io_uring_prep_write, fd, buffer, 500, 9900);
  CHECK(run(&ring) == 100);
  PREP(&ring, 1, io_uring_prep_write, fd, buffer, 500, 10000);
  CHECK(run(&ring) == -EFBIG);
  CHECK(io_uring_register_buffers(&ring, &whole, 1) == 0);
  PREP(&ring, 1, io_uring_prep_write_fixed, fd, buffer, 500, 9700, 0);
  CHECK(run(&ring) == 300);
  PREP(&ring, 1, io_uring_prep_write_fixed, fd, buffer, 500, 10001, 0);
  CHECK(run(&ring) == -EFBIG && lseek(fd, 0, SEEK_END) == 10000);
  puts("limited: done");
  close(fd);
  io_uring_queue_exit(&ring);
}

// --- registered buffers ---

static void fixed_buffers(void) {
  struct io_uring ring;
  make(&ring, 8);
  enum { kBytes = 400000 };
  int fd = pattern_file("fixed", kBytes);
  // Every other page is touched first, from the end: they need not lie behind each other.
  unsigned char* buffer = pages(64);
  for (int i = 63; i >= 0; i -= 2) buffer[i * kPage] = 1;
  unsigned char* small = malloc(10000);
  struct iovec iov[2] = {{buffer + 10, 60 * kPage}, {small, 10000}};
  CHECK(io_uring_register_buffers(&ring, iov, 2) == 0);
  CHECK(io_uring_register_buffers(&ring, iov, 2) == -EBUSY);

  PREP(&ring, 1, io_uring_prep_read_fixed, fd, buffer + 10, 60 * kPage, 123, 0);
  CHECK(run(&ring) == 60 * kPage && is_pattern(buffer + 10, 123, 60 * kPage));
  PREP(&ring, 1, io_uring_prep_read_fixed, fd, buffer + 5 * kPage - 3, 7 * kPage, 1, 0);
  CHECK(run(&ring) == 7 * kPage && is_pattern(buffer + 5 * kPage - 3, 1, 7 * kPage));
  PREP(&ring, 1, io_uring_prep_read_fixed, fd, small + 1, 9999, 5, 1);
  CHECK(run(&ring) == 9999 && is_pattern(small + 1, 5, 9999));
  PREP(&ring, 1, io_uring_prep_read_fixed, fd, buffer + 100, kPage, kBytes - 7, 0);
  CHECK(run(&ring) == 7);

  int out = open_file("fixed-out", O_RDWR | O_CREAT | O_TRUNC);
  for (size_t i = 0; i < 64 * kPage; ++i) buffer[i] = pattern(i);
  PREP(&ring, 1, io_uring_prep_write_fixed, out, buffer + 4000, 50 * kPage, 0, 0);
  CHECK(run(&ring) == 50 * kPage);
  unsigned char* check = pages(64);
  CHECK(pread(out, check, 64 * kPage, 0) == 50 * kPage && is_pattern(check, 4000, 50 * kPage));

  // Wrong buffers.
  PREP(&ring, 1, io_uring_prep_read_fixed, fd, buffer + 10, 10, 0, 2);
  CHECK(run(&ring) == -EFAULT);
  PREP(&ring, 1, io_uring_prep_read_fixed, fd, buffer + 9, 10, 0, 0);
  CHECK(run(&ring) == -EFAULT);
  PREP(&ring, 1, io_uring_prep_read_fixed, fd, buffer + 10, 60 * kPage + 1, 0, 0);
  CHECK(run(&ring) == -EFAULT);
  PREP(&ring, 1, io_uring_prep_read_fixed, fd, small, 10, 0, 0);
  CHECK(run(&ring) == -EFAULT);

  // What is registered stays where it is, and the program's, whatever it does to its map.
  CHECK(mprotect(buffer, 64 * kPage, PROT_READ) == 0);
  PREP(&ring, 1, io_uring_prep_read_fixed, fd, buffer + 10, 5000, 50, 0);
  CHECK(run(&ring) == 5000 && is_pattern(buffer + 10, 50, 5000));
  CHECK(mprotect(buffer, 64 * kPage, PROT_READ | PROT_WRITE) == 0);

  // A read that waits while the buffers go.
  int p[2];
  CHECK(pipe(p) == 0);
  PREP(&ring, 9, io_uring_prep_read_fixed, p[0], small, 5, 0, 1);
  CHECK(io_uring_submit(&ring) == 1);
  CHECK(write(p[1], "later", 5) == 5 && result(&ring, 9) == 5 && memcmp(small, "later", 5) == 0);
  CHECK(io_uring_unregister_buffers(&ring) == 0);
  CHECK(io_uring_unregister_buffers(&ring) == -ENXIO);
  PREP(&ring, 1, io_uring_prep_read_fixed, fd, buffer + 10, 10, 0, 0);
  CHECK(run(&ring) == -EFAULT);

  // What cannot be registered.
  unsigned char* hole = pages(4);
  CHECK(munmap(hole + 2 * kPage, kPage) == 0);
  iov[1] = (struct iovec){hole, 4 * kPage};
  CHECK(io_uring_register_buffers(&ring, iov, 2) == -EFAULT);
  iov[1] = (struct iovec){(void*)wild_address, 4096};
  CHECK(io_uring_register_buffers(&ring, iov, 2) == -EFAULT);
  CHECK(mprotect(hole, kPage, PROT_READ) == 0);
  iov[1] = (struct iovec){hole, 100};
  CHECK(io_uring_register_buffers(&ring, iov, 2) == -EFAULT);
  iov[1] = (struct iovec){hole, 0};
  CHECK(io_uring_register_buffers(&ring, iov, 2) == -EFAULT);
  CHECK(io_uring_register_buffers(&ring, iov, 0) == -EINVAL);
  CHECK(io_uring_register_buffers(&ring, (void*)wild_address, 1) == -EFAULT);
  iov[1] = (struct iovec){NULL, 0};
  CHECK(io_uring_register_buffers(&ring, iov, 2) == 0);
  PREP(&ring, 1, io_uring_prep_read_fixed, fd, buffer + 10, 10, 0, 0);
  CHECK(run(&ring) == 10);
  io_uring_queue_exit(&ring);  // with buffers registered
  puts("registered buffers");
}

static void fixed_files(void) {
  struct io_uring ring;
  make(&ring, 8);
  int fd = pattern_file("files", 1000), fds[3] = {fd, -1, -1};
  unsigned char data[100];
  CHECK(io_uring_register_files(&ring, fds, 3) == 0);
  CHECK(io_uring_register_files(&ring, fds, 3) == -EBUSY);
  PREP(&ring, 1, io_uring_prep_read, 0, data, 100, 10)->flags |= IOSQE_FIXED_FILE;
  CHECK(run(&ring) == 100 && is_pattern(data, 10, 100));
  PREP(&ring, 1, io_uring_prep_read, 1, data, 100, 10)->flags |= IOSQE_FIXED_FILE;
  CHECK(run(&ring) == -EBADF);
  PREP(&ring, 1, io_uring_prep_read, 3, data, 100, 10)->flags |= IOSQE_FIXED_FILE;
  CHECK(run(&ring) == -EBADF);
  int other = pattern_file("other", 500);
  CHECK(io_uring_register_files_update(&ring, 1, &other, 1) == 1);
  CHECK(close(other) == 0 && close(fd) == 0);  // the table holds them
  PREP(&ring, 1, io_uring_prep_read, 1, data, 100, 450)->flags |= IOSQE_FIXED_FILE;
  CHECK(run(&ring) == 50 && is_pattern(data, 450, 50));
  int bad = 9999;
  CHECK(io_uring_register_files_update(&ring, 0, &bad, 1) == -EBADF);
  CHECK(io_uring_register_files_update(&ring, 3, fds, 1) == -EINVAL);
  CHECK(io_uring_unregister_files(&ring) == 0);
  CHECK(io_uring_unregister_files(&ring) == -ENXIO);
  PREP(&ring, 1, io_uring_prep_read, 0, data, 100, 10)->flags |= IOSQE_FIXED_FILE;
  CHECK(run(&ring) == -EBADF);
  CHECK(io_uring_register_files(&ring, &bad, 1) == -EBADF);
  io_uring_queue_exit(&ring);
  puts("registered files");
}

// --- order ---

static void links(void) {
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
  // A chain of a copy, as link-cp of liburing does it.
  int out = open_file("links-out", O_RDWR | O_CREAT | O_TRUNC);
  for (int at = 0; at < 10000; at += 1000) {
    char block[1000];
    PREP(&ring, 1, io_uring_prep_read, fd, block, 1000, at)->flags |= IOSQE_IO_LINK;
    PREP(&ring, 2, io_uring_prep_write, out, block, 1000, at);
    CHECK(io_uring_submit_and_wait(&ring, 2) == 2);
    results(&ring, 2, got);
    CHECK(got[1] == 1000 && got[2] == 1000);
  }
  io_uring_queue_exit(&ring);
  puts("links, drains");
}

static struct __kernel_timespec milliseconds(long ms) {
  return (struct __kernel_timespec){ms / 1000, ms % 1000 * 1000000};
}

static void timeouts(void) {
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
  // On another entry.
  int p[2];
  char byte;
  CHECK(pipe(p) == 0);
  PREP(&ring, 1, io_uring_prep_read, p[0], &byte, 1, 0)->flags |= IOSQE_IO_LINK;
  PREP(&ring, 2, io_uring_prep_link_timeout, &soon, 0);
  CHECK(io_uring_submit(&ring) == 2);
  results(&ring, 2, got);
  CHECK((got[1] == -ECANCELED || got[1] == -EINTR) && got[2] == -ETIME);
  PREP(&ring, 1, io_uring_prep_read, p[0], &byte, 1, 0)->flags |= IOSQE_IO_LINK;
  PREP(&ring, 2, io_uring_prep_link_timeout, &late, 0);
  CHECK(io_uring_submit(&ring) == 2 && write(p[1], "x", 1) == 1);
  results(&ring, 2, got);
  CHECK(got[1] == 1 && got[2] == -ECANCELED);
  // The wait's own.
  struct io_uring_cqe* cqe;
  CHECK(io_uring_wait_cqe_timeout(&ring, &cqe, &soon) == -ETIME);
  PREP(&ring, 1, io_uring_prep_nop);
  CHECK(io_uring_submit(&ring) == 1);
  CHECK(io_uring_wait_cqes(&ring, &cqe, 2, &soon, NULL) == 0);  // one of two: that is what there is
  io_uring_cq_advance(&ring, 1);
  // One that runs out ends a wait for more than there is; one that is removed does not.
  PREP(&ring, 1, io_uring_prep_timeout, &soon, 0, 0);
  CHECK(io_uring_submit_and_wait(&ring, 5) == 1);
  CHECK(io_uring_cq_ready(&ring) == 1 && completed(&ring) == -ETIME);
  PREP(&ring, 1, io_uring_prep_timeout, &late, 0, 0);
  PREP(&ring, 2, io_uring_prep_timeout_remove, 1, 0);
  PREP(&ring, 3, io_uring_prep_timeout, &soon, 0, 0);
  CHECK(io_uring_submit_and_wait(&ring, 5) == 3 && io_uring_cq_ready(&ring) == 3);
  results(&ring, 3, got);
  CHECK(got[1] == -ECANCELED && got[2] == 0 && got[3] == -ETIME);
  // One that fires again (IORING_TIMEOUT_MULTISHOT): refused, or twice if it says twice.
  PREP(&ring, 1, io_uring_prep_timeout, &soon, 2, 1u << 6);
  if (run(&ring) != -EINVAL) CHECK(result(&ring, 1) == -ETIME);
  nothing_waits(&ring);
  io_uring_queue_exit(&ring);
  puts("timeouts");
}

static void polls(void) {
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

// --- completions ---

static unsigned kernel_flags(struct io_uring* ring) { return __atomic_load_n(ring->sq.kflags, __ATOMIC_ACQUIRE); }

static void overflow(void) {
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
static void completions_without_calls(void) {
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

static void descriptor(void) {
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

static void events(void) {
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

static void interrupted(void) {
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

// --- what is refused ---

static int raw_setup(unsigned entries, struct io_uring_params* params) {
  return (int)syscall(SYS_io_uring_setup, entries, params);
}

static void refused(void) {
  struct io_uring_params params = {0};
  CHECK_ERRNO(raw_setup(0, &params), EINVAL);
  CHECK_ERRNO(raw_setup(32769, &params), EINVAL);
  CHECK_ERRNO(raw_setup(1, (void*)wild_address), EFAULT);
  params.flags = 1u << 31;
  CHECK_ERRNO(raw_setup(1, &params), EINVAL);
  params = (struct io_uring_params){.flags = IORING_SETUP_CQSIZE, .cq_entries = 2};
  CHECK_ERRNO(raw_setup(4, &params), EINVAL);
  params.cq_entries = 0;
  CHECK_ERRNO(raw_setup(4, &params), EINVAL);
  params = (struct io_uring_params){.resv = {0, 1, 0}};
  CHECK_ERRNO(raw_setup(4, &params), EINVAL);
  params = (struct io_uring_params){.flags = IORING_SETUP_TASKRUN_FLAG};
  CHECK_ERRNO(raw_setup(4, &params), EINVAL);
  params = (struct io_uring_params){.flags = IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE, .cq_entries = 1u << 30};
  int fd = raw_setup(5, &params);
  CHECK(fd >= 0 && params.sq_entries == 8 && params.cq_entries == 65536 && close(fd) == 0);

  struct io_uring ring;
  make(&ring, 8);
  char byte;
  int file = open_file("refused", O_RDWR | O_CREAT | O_TRUNC), reader = open_file("refused", O_RDONLY);
  int path = open_file("refused", O_PATH), folder = open(directory, O_RDONLY | O_DIRECTORY);
  entry(&ring, 1)->opcode = 255;
  CHECK(run(&ring) == -EINVAL);
  PREP(&ring, 1, io_uring_prep_nop)->flags = 1 << 7;
  CHECK(run(&ring) == -EINVAL);
  PREP(&ring, 1, io_uring_prep_nop)->personality = 77;
  CHECK(run(&ring) == -EINVAL);
  PREP(&ring, 1, io_uring_prep_read, 9999, &byte, 1, 0);
  CHECK(run(&ring) == -EBADF);
  PREP(&ring, 1, io_uring_prep_read, -1, &byte, 1, 0);
  CHECK(run(&ring) == -EBADF);
  PREP(&ring, 1, io_uring_prep_read, path, &byte, 1, 0);
  CHECK(run(&ring) == -EBADF);
  PREP(&ring, 1, io_uring_prep_write, reader, &byte, 1, 0);
  CHECK(run(&ring) == -EBADF);
  PREP(&ring, 1, io_uring_prep_write, folder, &byte, 1, 0);
  CHECK(run(&ring) == -EBADF);
  PREP(&ring, 1, io_uring_prep_read, folder, &byte, 1, 0);
  CHECK(run(&ring) == -EISDIR);
  PREP(&ring, 1, io_uring_prep_write, file, (void*)wild_address, 10, 0);
  CHECK(run(&ring) == -EFAULT);
  PREP(&ring, 1, io_uring_prep_writev, file, (void*)wild_address, 1, 0);
  CHECK(run(&ring) == -EFAULT);
  struct iovec iov = {&byte, 1};
  PREP(&ring, 1, io_uring_prep_writev, file, &iov, 1025, 0);
  CHECK(run(&ring) == -EINVAL);
  PREP(&ring, 1, io_uring_prep_read_fixed, file, &byte, 1, 0, 0);
  CHECK(run(&ring) == -EFAULT);
  PREP(&ring, 1, io_uring_prep_writev2, file, &iov, 1, 0, 1 << 30);
  CHECK(run(&ring) == -EOPNOTSUPP);
  PREP(&ring, 1, io_uring_prep_fsync, file, 1 << 5);
  CHECK(run(&ring) == -EINVAL);
  PREP(&ring, 1, io_uring_prep_fsync, 9999, 0);
  CHECK(run(&ring) == -EBADF);
  // An index that is none: the entry is dropped, and said to be.
  unsigned tail = *ring.sq.ktail;
  ring.sq.array[tail & (ring.sq.ring_entries - 1)] = 1000;
  __atomic_store_n(ring.sq.ktail, tail + 1, __ATOMIC_RELEASE);
  syscall(SYS_io_uring_enter, ring.ring_fd, 1, 0, 0, NULL, 8);
  CHECK(__atomic_load_n(ring.sq.kdropped, __ATOMIC_ACQUIRE) == 1);
  // A call's own arguments.
  CHECK_ERRNO((int)syscall(SYS_io_uring_enter, ring.ring_fd, 0, 0, 1u << 31, NULL, 0), EINVAL);
  CHECK_ERRNO((int)syscall(SYS_io_uring_enter, 9999, 0, 0, 0, NULL, 0), EBADF);
  CHECK_ERRNO((int)syscall(SYS_io_uring_enter, ring.ring_fd, 0, 1, IORING_ENTER_GETEVENTS, &byte, 3), EINVAL);
  const unsigned extended = IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG;
  CHECK_ERRNO((int)syscall(SYS_io_uring_enter, ring.ring_fd, 0, 1, extended, &byte, 3), EINVAL);
  CHECK_ERRNO((int)syscall(SYS_io_uring_register, ring.ring_fd, 9999, NULL, 0), EINVAL);
  CHECK_ERRNO((int)syscall(SYS_io_uring_register, file, IORING_UNREGISTER_BUFFERS, NULL, 0), EOPNOTSUPP);
  CHECK(lseek(file, 0, SEEK_END) == 0);
  io_uring_queue_exit(&ring);
  puts("refused");
}

static void probes(void) {
  struct io_uring_probe* probe = io_uring_get_probe();
  CHECK(probe);
  static const int kServed[] = {IORING_OP_NOP,      IORING_OP_READ,         IORING_OP_WRITE,        IORING_OP_READV,
                                IORING_OP_WRITEV,   IORING_OP_READ_FIXED,   IORING_OP_WRITE_FIXED,  IORING_OP_FSYNC,
                                IORING_OP_POLL_ADD, IORING_OP_POLL_REMOVE,  IORING_OP_TIMEOUT,
                                IORING_OP_TIMEOUT_REMOVE, IORING_OP_LINK_TIMEOUT, IORING_OP_ASYNC_CANCEL};
  for (size_t i = 0; i < sizeof kServed / sizeof *kServed; ++i) CHECK(io_uring_opcode_supported(probe, kServed[i]));
  CHECK(!io_uring_opcode_supported(probe, 254));
  io_uring_free_probe(probe);
  puts("probe");
}

// --- many threads ---

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

static void threads(void) {
  pthread_t all[kThreads];
  for (int i = 0; i < 2; ++i) make(&shared_rings[i], 4);
  for (unsigned i = 0; i < kThreads; ++i) CHECK(pthread_create(&all[i], NULL, submitter, (void*)(uintptr_t)i) == 0);
  for (unsigned i = 0; i < kThreads; ++i) CHECK(pthread_join(all[i], NULL) == 0);
  for (int i = 0; i < 2; ++i) io_uring_queue_exit(&shared_rings[i]);
  printf("%d threads, %d rounds\n", kThreads, kRounds);
}

// Entries about rings, the own and another, that come to their turn when both descriptors are closed already.
static void rings_in_entries(void) {
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
static void end_in_flight(void) {
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

static const struct {
  const char* name;
  void (*run)(void);
} kCases[] = {{"transfers", transfers}, {"limited", limited}, {"fixed_buffers", fixed_buffers}, {"fixed_files", fixed_files},
              {"links", links}, {"timeouts", timeouts}, {"polls", polls}, {"overflow", overflow},
              {"completions_without_calls", completions_without_calls}, {"descriptor", descriptor}, {"events", events},
              {"interrupted", interrupted}, {"refused", refused}, {"probes", probes}, {"threads", threads},
              {"end_in_flight", end_in_flight}, {"rings_in_entries", rings_in_entries}};

int main(int argc, char** argv) {
  if (argc == 2 && strcmp(argv[1], "--list") == 0) {
    for (size_t i = 0; i < sizeof kCases / sizeof *kCases; ++i) puts(kCases[i].name);
    return 0;
  }
  if (argc != 3) return 2;
  directory = argv[2];
  for (size_t i = 0; i < sizeof kCases / sizeof *kCases; ++i) {
    if (strcmp(argv[1], kCases[i].name) != 0) continue;
    kCases[i].run();
    return 0;
  }
  return 2;
}
