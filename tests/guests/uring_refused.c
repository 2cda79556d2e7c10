// What io_uring refuses, and which operations it says it has.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "uring.h"

static int raw_setup(unsigned entries, struct io_uring_params* params) {
  return (int)syscall(SYS_io_uring_setup, entries, params);
}

static void refused_setups(void) {
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
}

static void refused_calls(struct io_uring* ring, int file) {
  char byte;
  // An index that is none: the entry is dropped, and said to be.
  unsigned tail = *ring->sq.ktail;
  ring->sq.array[tail & (ring->sq.ring_entries - 1)] = 1000;
  __atomic_store_n(ring->sq.ktail, tail + 1, __ATOMIC_RELEASE);
  syscall(SYS_io_uring_enter, ring->ring_fd, 1, 0, 0, NULL, 8);
  CHECK(__atomic_load_n(ring->sq.kdropped, __ATOMIC_ACQUIRE) == 1);
  // A call's own arguments.
  CHECK_ERRNO((int)syscall(SYS_io_uring_enter, ring->ring_fd, 0, 0, 1u << 31, NULL, 0), EINVAL);
  CHECK_ERRNO((int)syscall(SYS_io_uring_enter, 9999, 0, 0, 0, NULL, 0), EBADF);
  CHECK_ERRNO((int)syscall(SYS_io_uring_enter, ring->ring_fd, 0, 1, IORING_ENTER_GETEVENTS, &byte, 3), EINVAL);
  const unsigned extended = IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG;
  CHECK_ERRNO((int)syscall(SYS_io_uring_enter, ring->ring_fd, 0, 1, extended, &byte, 3), EINVAL);
  CHECK_ERRNO((int)syscall(SYS_io_uring_register, ring->ring_fd, 9999, NULL, 0), EINVAL);
  CHECK_ERRNO((int)syscall(SYS_io_uring_register, file, IORING_UNREGISTER_BUFFERS, NULL, 0), EOPNOTSUPP);
}

void refused(void) {
  refused_setups();
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
  refused_calls(&ring, file);
  CHECK(lseek(file, 0, SEEK_END) == 0);
  io_uring_queue_exit(&ring);
  puts("refused");
}

void probes(void) {
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
