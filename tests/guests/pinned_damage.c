// What happens to pinned memory at a fork, counted: pinned_damage DIRECTORY. A fixed buffer of io_uring is pinned, the
// program forks and then writes a byte to each page; what the host's kernel reads into the buffer from then on is the
// parent's, and nobody else's. And a long-term pin of gup_test reads what the parent writes after the fork.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ring.h"

enum { kPage = 4096, kPages = 16, kBytes = kPages * kPage, kBefore = 0x11, kAfter = 0x22 };

static unsigned char* region(int fill) {
  unsigned char* p = mmap(NULL, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(p != MAP_FAILED);
  return memset(p, fill, kBytes);
}

static unsigned count(const unsigned char* at, unsigned char value) {
  unsigned n = 0;
  for (int i = 0; i < kBytes; ++i) n += at[i] == value;
  return n;
}

// A child that waits, then tells how many bytes of the memory have that value.
struct child {
  pid_t pid;
  int go, answer;
};
static struct child start(const unsigned char* memory, unsigned char value) {
  int go[2], answer[2];
  CHECK(pipe(go) == 0 && pipe(answer) == 0);
  const pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid == 0) {
    char byte;
    close(go[1]);
    if (read(go[0], &byte, 1) != 1) _exit(1);
    const unsigned n = count(memory, value);
    _exit(write(answer[1], &n, sizeof n) != sizeof n);
  }
  close(go[0]);
  close(answer[1]);
  return (struct child){pid, go[1], answer[0]};
}
static unsigned ask(struct child c) {
  unsigned n;
  int status;
  CHECK(write(c.go, "x", 1) == 1 && read(c.answer, &n, sizeof n) == sizeof n);
  CHECK(waitpid(c.pid, &status, 0) == c.pid && status == 0);
  return n;
}

static void read_fixed(void) {
  struct io_uring ring;
  unsigned char *memory = region(kBefore), *data = region(kAfter);
  struct iovec iov = {memory, kBytes};
  CHECK(io_uring_queue_init(4, &ring, 0) == 0 && io_uring_register_buffers(&ring, &iov, 1) == 0);
  const int fd = open("data", O_RDWR | O_CREAT | O_TRUNC, 0644);
  CHECK(write(fd, data, kBytes) == kBytes);
  const struct child c = start(memory, kAfter);
  for (int i = 0; i < kPages; ++i) memory[i * kPage] = 0x33;  // copies the page, where anybody thinks it must be
  io_uring_prep_read_fixed(io_uring_get_sqe(&ring), fd, memory, kBytes, 0, 0);
  CHECK(io_uring_submit(&ring) == 1);
  CHECK(completed(&ring) == kBytes);
  const unsigned got = count(memory, kAfter);
  printf("read_fixed: the parent lost %u bytes, the child saw %u\n", kBytes - got, ask(c));
  io_uring_queue_exit(&ring);
}

struct range {
  uint64_t address, bytes;
  uint32_t flags;
};
#define START _IOW('g', 7, struct range)
#define READ _IOW('g', 9, uint64_t)

// A native kernel has no such device, or does not let us: then what it would show.
static void long_term(void) {
  unsigned char *memory = region(kBefore), *seen = region(0);
  unsigned missed = 0, shown = 0;
  const int fd = open("/sys/kernel/debug/gup_test", O_RDWR);
  if (fd >= 0) {
    struct range range = {(uintptr_t)memory, kBytes, 1};
    CHECK(ioctl(fd, START, &range) == 0);
    const struct child c = start(memory, kAfter);
    for (int i = 0; i < kPages; ++i) memory[i * kPage + 5] = kAfter;
    uint64_t to = (uintptr_t)seen;
    CHECK(ioctl(fd, READ, &to) == 0);
    missed = kPages - count(seen, kAfter);
    shown = ask(c);
  }
  printf("long-term pin: the device missed %u of %d stores, the child's are %u\n", missed, kPages, shown);
}

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  CHECK(chdir(argv[1]) == 0);
  read_fixed();
  long_term();
  return 0;
}
