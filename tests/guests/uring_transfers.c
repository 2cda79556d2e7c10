// What is read and written by entries of an io_uring: files, pipes, memory; registered buffers and files.
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "uring.h"

static void reads(struct io_uring* ring, int fd, size_t bytes, unsigned char* buffer) {
  PREP(ring, 1, io_uring_prep_read, fd, buffer + 5, 100000, 77);
  CHECK(run(ring) == 100000 && is_pattern(buffer + 5, 77, 100000));
  PREP(ring, 1, io_uring_prep_read, fd, buffer, kPage, bytes - 10);
  CHECK(run(ring) == 10 && is_pattern(buffer, bytes - 10, 10));
  PREP(ring, 1, io_uring_prep_read, fd, buffer, kPage, bytes);
  CHECK(run(ring) == 0);

  struct iovec iov[4] = {
      {buffer, 1}, {buffer + 3 * kPage - 1, 2}, {buffer + 9 * kPage, 0}, {buffer + 20 * kPage, 70000}};
  PREP(ring, 1, io_uring_prep_readv, fd, iov, 4, 1000);
  CHECK(run(ring) == 70003 && is_pattern(buffer, 1000, 1) && is_pattern(buffer + 3 * kPage - 1, 1001, 2) &&
        is_pattern(buffer + 20 * kPage, 1003, 70000));

  // At the file's own offset.
  CHECK(lseek(fd, 50, SEEK_SET) == 50);
  PREP(ring, 1, io_uring_prep_read, fd, buffer, 100, -1);
  CHECK(run(ring) == 100 && is_pattern(buffer, 50, 100) && lseek(fd, 0, SEEK_CUR) == 150);
}

static void writes(struct io_uring* ring, int out, unsigned char* buffer) {
  for (size_t i = 0; i < 100 * kPage; ++i) buffer[i] = pattern(i);
  PREP(ring, 1, io_uring_prep_write, out, buffer, 5000, 0);
  CHECK(run(ring) == 5000);
  struct iovec parts[3] = {{buffer + 5000, 10000}, {buffer + 15000, 1}, {buffer + 15001, 50000}};
  PREP(ring, 1, io_uring_prep_writev, out, parts, 3, 5000);
  CHECK(run(ring) == 60001);
  PREP(ring, 1, io_uring_prep_writev2, out, parts, 1, -1, RWF_APPEND);
  CHECK(run(ring) == 10000);
  PREP(ring, 1, io_uring_prep_fsync, out, 0);
  CHECK(run(ring) == 0);
  PREP(ring, 1, io_uring_prep_fsync, out, IORING_FSYNC_DATASYNC);
  CHECK(run(ring) == 0);
  CHECK(pread(out, buffer, 80000, 0) == 75001);
  CHECK(is_pattern(buffer, 0, 65001) && is_pattern(buffer + 65001, 5000, 10000));
}

// Many at once, out of order, of entries used again and again.
static void many_reads(struct io_uring* ring, int fd, unsigned char* many) {
  for (int round = 0; round < 50; ++round) {
    memset(many, 0, 64 * kPage);
    for (unsigned i = 0; i < 8; ++i) PREP(ring, i, io_uring_prep_read, fd, many + i * 8 * kPage, 6 * kPage, i * 12345);
    CHECK(io_uring_submit_and_wait(ring, 8) == 8);
    int got[16];
    results(ring, 8, got);
    for (unsigned i = 0; i < 8; ++i)
      CHECK(got[i] == 6 * kPage && is_pattern(many + i * 8 * kPage, i * 12345, 6 * kPage));
  }
  nothing_waits(ring);
}

static void buffers_elsewhere(struct io_uring* ring, int fd, int out, unsigned char* many) {
  // A buffer that is only partly there takes what is there; none of it there is an error.
  CHECK(munmap(many + kPage, kPage) == 0);
  PREP(ring, 1, io_uring_prep_read, fd, many + kPage, 10, 0);
  CHECK(run(ring) == -EFAULT);
  PREP(ring, 1, io_uring_prep_write, out, many + kPage, 10, 0);
  CHECK(run(ring) == -EFAULT);
  CHECK(mprotect(many, kPage, PROT_READ) == 0);
  PREP(ring, 1, io_uring_prep_read, fd, many, 10, 0);
  CHECK(run(ring) == -EFAULT);
  PREP(ring, 1, io_uring_prep_read, fd, NULL, 0, 0);
  CHECK(run(ring) == 0);

  // What can be read is a buffer too: of this file, mapped.
  unsigned char* mapped = mmap(NULL, 20 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  CHECK(mapped != MAP_FAILED);
  PREP(ring, 1, io_uring_prep_read, fd, mapped + 10 * kPage, 100, 3);
  CHECK(run(ring) == 100 && is_pattern(mapped + 10 * kPage, 3, 100));
  PREP(ring, 1, io_uring_prep_write, out, mapped, 100, 0);
  CHECK(run(ring) == 100);
}

static void pipes_and_events(struct io_uring* ring, unsigned char* buffer) {
  int p[2];
  CHECK(pipe(p) == 0);
  PREP(ring, 1, io_uring_prep_read, p[0], buffer, 100, 0);
  CHECK(io_uring_submit(ring) == 1);
  nothing_waits(ring);
  CHECK(write(p[1], "pipe", 4) == 4 && result(ring, 1) == 4 && memcmp(buffer, "pipe", 4) == 0);
  PREP(ring, 1, io_uring_prep_write, p[1], "back", 4, 0);
  CHECK(run(ring) == 4 && read(p[0], buffer, 10) == 4 && memcmp(buffer, "back", 4) == 0);
  int pair[2];
  CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
  PREP(ring, 1, io_uring_prep_read, pair[0], buffer, 100, 0);
  CHECK(io_uring_submit(ring) == 1 && write(pair[1], "socket", 6) == 6 && result(ring, 1) == 6);
  int event = eventfd(5, 0);
  uint64_t value = 0;
  PREP(ring, 1, io_uring_prep_read, event, &value, 8, 0);
  CHECK(run(ring) == 8 && value == 5);

  // Nobody reads the pipe: an error, and the signal.
  struct sigaction ignore = {.sa_handler = SIG_IGN};
  sigaction(SIGPIPE, &ignore, NULL);
  close(p[0]);
  PREP(ring, 1, io_uring_prep_write, p[1], "x", 1, 0);
  CHECK(run(ring) == -EPIPE);
}

void transfers(void) {
  struct io_uring ring;
  make(&ring, 8);
  enum { kBytes = 300000 };
  int fd = pattern_file("transfers", kBytes);
  unsigned char* buffer = pages(100);
  reads(&ring, fd, kBytes, buffer);
  int out = open_file("written", O_RDWR | O_CREAT | O_TRUNC);
  writes(&ring, out, buffer);
  unsigned char* many = pages(64);
  many_reads(&ring, fd, many);
  buffers_elsewhere(&ring, fd, out, many);
  pipes_and_events(&ring, buffer);
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
void limited(void) {
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

static void wrong_buffers(struct io_uring* ring, int fd, unsigned char* buffer, unsigned char* small) {
  PREP(ring, 1, io_uring_prep_read_fixed, fd, buffer + 10, 10, 0, 2);
  CHECK(run(ring) == -EFAULT);
  PREP(ring, 1, io_uring_prep_read_fixed, fd, buffer + 9, 10, 0, 0);
  CHECK(run(ring) == -EFAULT);
  PREP(ring, 1, io_uring_prep_read_fixed, fd, buffer + 10, 60 * kPage + 1, 0, 0);
  CHECK(run(ring) == -EFAULT);
  PREP(ring, 1, io_uring_prep_read_fixed, fd, small, 10, 0, 0);
  CHECK(run(ring) == -EFAULT);
}

static void not_registered(struct io_uring* ring, int fd, unsigned char* buffer, struct iovec* iov) {
  unsigned char* hole = pages(4);
  CHECK(munmap(hole + 2 * kPage, kPage) == 0);
  iov[1] = (struct iovec){hole, 4 * kPage};
  CHECK(io_uring_register_buffers(ring, iov, 2) == -EFAULT);
  iov[1] = (struct iovec){(void*)wild_address, 4096};
  CHECK(io_uring_register_buffers(ring, iov, 2) == -EFAULT);
  CHECK(mprotect(hole, kPage, PROT_READ) == 0);
  iov[1] = (struct iovec){hole, 100};
  CHECK(io_uring_register_buffers(ring, iov, 2) == -EFAULT);
  iov[1] = (struct iovec){hole, 0};
  CHECK(io_uring_register_buffers(ring, iov, 2) == -EFAULT);
  CHECK(io_uring_register_buffers(ring, iov, 0) == -EINVAL);
  CHECK(io_uring_register_buffers(ring, (void*)wild_address, 1) == -EFAULT);
  iov[1] = (struct iovec){NULL, 0};
  CHECK(io_uring_register_buffers(ring, iov, 2) == 0);
  PREP(ring, 1, io_uring_prep_read_fixed, fd, buffer + 10, 10, 0, 0);
  CHECK(run(ring) == 10);
}

void fixed_buffers(void) {
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

  wrong_buffers(&ring, fd, buffer, small);

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

  not_registered(&ring, fd, buffer, iov);
  io_uring_queue_exit(&ring);  // with buffers registered
  puts("registered buffers");
}

void fixed_files(void) {
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
