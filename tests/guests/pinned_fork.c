// Fork while devices write into memory that is pinned: what the host's kernel reads for the parent must arrive in the
// parent's pages, and in nobody else's. pinned_fork ROUNDS DIRECTORY
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ring.h"

enum { kPage = 4096, kPages = 16, kBytes = kPages * kPage, kStreams = 2 };

static int pattern_fd;

// The file holds 256 patterns of kBytes each.
static unsigned char pattern(unsigned number, size_t i) { return (unsigned char)(number * 31 + i / kPage * 5 + i); }
static bool holds(const unsigned char* at, unsigned number) {
  for (size_t i = 0; i < kBytes; ++i)
    if (at[i] != pattern(number, i)) return false;
  return true;
}

static unsigned char* region(void) {
  unsigned char* p = mmap(NULL, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(p != MAP_FAILED);
  return p;
}

struct device {
  struct io_uring ring;
  unsigned char* memory;
};
static void start(struct device* d) {
  d->memory = region();
  struct iovec iov = {d->memory, kBytes};
  CHECK(io_uring_queue_init(8, &d->ring, 0) == 0 && io_uring_register_buffers(&d->ring, &iov, 1) == 0);
}
static void submit(struct device* d, int fd, uint64_t offset) {
  struct io_uring_sqe* sqe = io_uring_get_sqe(&d->ring);
  io_uring_prep_read_fixed(sqe, fd, d->memory, kBytes, offset, 0);
  CHECK(io_uring_submit(&d->ring) == 1);
}
static void finish(struct device* d) { CHECK(completed(&d->ring) == kBytes); }
static void fetch(struct device* d, unsigned number) {
  submit(d, pattern_fd, (uint64_t)(number % 256) * kBytes);
  finish(d);
}

// Reads without end into pinned pages, and looks at every byte, whatever the other threads do meanwhile.
static volatile bool over;
static void* stream(void* arg) {
  struct device d;
  start(&d);
  uint64_t rounds = 0;
  for (unsigned number = (unsigned)(uintptr_t)arg; !over; ++number, ++rounds) {
    // Stores of the program's own between the device's: they break sharing where somebody has made it.
    memset(d.memory, 0xff, kBytes);
    fetch(&d, number % 256);
    CHECK(holds(d.memory, number % 256));
  }
  io_uring_queue_exit(&d.ring);
  return (void*)(uintptr_t)rounds;
}

// A child that looks, is told that the parent's memory has changed, looks again, writes, and ends.
static pid_t child(const unsigned char* memory, unsigned number, int told, bool writable) {
  pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid) return pid;
  char byte;
  if (!holds(memory, number)) _exit(10);
  if (read(told, &byte, 1) != 1) _exit(11);
  if (!holds(memory, number)) _exit(12);
  if (writable) memset((void*)memory, 0xee, kBytes);
  _exit(0);
}
static void end(pid_t pid) {
  int status;
  CHECK(waitpid(pid, &status, 0) == pid);
  CHECK(status == 0);
}

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const unsigned rounds = (unsigned)atoi(argv[1]);
  CHECK(chdir(argv[2]) == 0);
  pattern_fd = open("patterns", O_RDWR | O_CREAT | O_TRUNC, 0644);
  unsigned char* block = region();
  for (unsigned number = 0; number < 256; ++number) {
    for (size_t i = 0; i < kBytes; ++i) block[i] = pattern(number, i);
    CHECK(write(pattern_fd, block, kBytes) == kBytes);
  }
  pthread_t streams[kStreams];
  for (int i = 0; i < kStreams; ++i) CHECK(pthread_create(&streams[i], NULL, stream, (void*)(uintptr_t)(i * 100)) == 0);

  struct device d;
  start(&d);
  int told[2], data[2];
  CHECK(pipe(told) == 0 && pipe(data) == 0 && fcntl(data[1], F_SETPIPE_SZ, 2 * kBytes) >= kBytes);
  for (unsigned round = 0; round < rounds; ++round) {
    const unsigned before = round % 256, after = (round + 1) % 256;
    const bool read_only = round % 4 >= 2, in_flight = round % 2;
    fetch(&d, before);
    // Read-only to the program is not read-only to the device.
    if (read_only) CHECK(mprotect(d.memory, kBytes, PROT_READ) == 0);
    if (in_flight) submit(&d, data[0], 0);
    const pid_t pid = child(d.memory, before, told[0], !read_only);
    if (in_flight) {
      CHECK(pread(pattern_fd, block, kBytes, (off_t)after * kBytes) == kBytes);
      CHECK(write(data[1], block, kBytes) == kBytes);
      finish(&d);
    } else {
      fetch(&d, after);
    }
    CHECK(holds(d.memory, after));
    CHECK(write(told[1], "x", 1) == 1);
    end(pid);
    CHECK(holds(d.memory, after));
    if (read_only) CHECK(mprotect(d.memory, kBytes, PROT_READ | PROT_WRITE) == 0);
  }
  over = true;
  uint64_t streamed = 0;
  for (int i = 0; i < kStreams; ++i) {
    void* count;
    CHECK(pthread_join(streams[i], &count) == 0);
    streamed += (uintptr_t)count;
  }
  CHECK(streamed > 0);
  io_uring_queue_exit(&d.ring);
  printf("%u forks, every byte as it should be\n", rounds);
  return 0;
}
