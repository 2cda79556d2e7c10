// Forks without end, in a program that pins, writes, protects, unpins and forks in any order, while other threads have
// io_uring read into pinned pages all the time. Every byte is checked, of the parent and of each child, against a copy
// that was never pinned. pin_storm SEED FORKS DIRECTORY
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ring.h"

enum { kPage = 4096, kBytes = 4 * kPage, kRegions = 4, kStreams = 2, kChildren = 3, kPatterns = 64 };

static int pattern_fd;
static unsigned char patterns[kPatterns][kBytes];
static uint64_t state;
static unsigned roll(unsigned below) {  // xorshift
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return (unsigned)(state >> 33) % below;
}

struct region {
  unsigned char *memory, copy[kBytes];
  struct io_uring ring;
  bool pinned, read_only;
};
static struct region regions[kRegions];
static uint64_t operations, transfers;

static void start(struct region* r) {
  r->memory = mmap(NULL, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(r->memory != MAP_FAILED && io_uring_queue_init(4, &r->ring, 0) == 0);
}
static void pin(struct region* r) {
  struct iovec iov = {r->memory, kBytes};
  CHECK(io_uring_register_buffers(&r->ring, &iov, 1) == (r->pinned ? -EBUSY : r->read_only ? -EFAULT : 0));
  r->pinned = r->pinned || !r->read_only;
}
static void unpin(struct region* r) {
  CHECK(io_uring_unregister_buffers(&r->ring) == (r->pinned ? 0 : -ENXIO));
  r->pinned = false;
}
static void submit(struct region* r, int fd, uint64_t offset) {
  struct io_uring_sqe* sqe = io_uring_get_sqe(&r->ring);
  if (r->pinned) io_uring_prep_read_fixed(sqe, fd, r->memory, kBytes, offset, 0);
  else io_uring_prep_read(sqe, fd, r->memory, kBytes, offset);
  CHECK(io_uring_submit(&r->ring) == 1);
}
static void finish(struct region* r) { CHECK(completed(&r->ring) == kBytes); }
static bool as_it_should_be(const struct region* r) { return memcmp(r->memory, r->copy, kBytes) == 0; }
static void store(struct region* r) {
  const unsigned at = roll(kBytes), n = roll(kBytes - at) + 1, byte = roll(256);
  memset(r->memory + at, (int)byte, n);
  memset(r->copy + at, (int)byte, n);
}

// Reads without end into pinned pages, checked each time.
static volatile bool over;
static void* stream(void* arg) {
  struct region r = {0};
  start(&r);
  uint64_t rounds = 0;
  for (unsigned number = (unsigned)(uintptr_t)arg; !over; ++number, ++rounds) {
    if (rounds % 16 == 0) r.pinned ? unpin(&r) : pin(&r);
    if (rounds % 8 == 0) usleep(1000);  // two processors are to be enough for the forks as well
    memset(r.memory, 0xff, kBytes);
    submit(&r, pattern_fd, (uint64_t)(number % kPatterns) * kBytes);
    finish(&r);
    CHECK(memcmp(r.memory, patterns[number % kPatterns], kBytes) == 0);
  }
  io_uring_queue_exit(&r.ring);
  return (void*)(uintptr_t)rounds;
}

// A child looks at all there is, perhaps once more when the parent has gone on, writes, and ends.
struct child {
  pid_t pid;
  int go;
};
static struct child children[kChildren];
static unsigned alive;
static void fork_one(void) {
  int go[2] = {-1, -1};
  const bool waits = roll(2);
  if (waits) CHECK(pipe(go) == 0);
  const pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid == 0) {
    char byte;
    if (waits) close(go[1]);
    for (int i = 0; i < kRegions; ++i)
      if (!as_it_should_be(&regions[i])) _exit(10 + i);
    if (waits && read(go[0], &byte, 1) != 1) _exit(20);
    for (int i = 0; i < kRegions; ++i) {
      if (!as_it_should_be(&regions[i])) _exit(30 + i);
      if (!regions[i].read_only) store(&regions[i]);
      if (!as_it_should_be(&regions[i])) _exit(40 + i);
    }
    _exit(0);
  }
  if (waits) close(go[0]);
  children[alive++] = (struct child){pid, go[1]};
}
static void end_one(void) {
  const unsigned which = roll(alive);
  const struct child c = children[which];
  int status;
  if (c.go >= 0) CHECK(write(c.go, "x", 1) == 1 && close(c.go) == 0);
  CHECK(waitpid(c.pid, &status, 0) == c.pid);
  if (status) fprintf(stderr, "child: status %x\n", (unsigned)status);
  CHECK(status == 0);
  children[which] = children[--alive];
}

// Does one thing of the ten to one region. `data`: a pipe that a device reads from. *forked: how many forks there were.
static void step(const int data[2], unsigned* forked) {
  struct region* r = &regions[roll(kRegions)];
  const unsigned number = roll(kPatterns);
  switch (roll(10)) {
    case 0: pin(r); break;
    case 1: unpin(r); break;
    case 2:
      r->read_only = !r->read_only;
      CHECK(mprotect(r->memory, kBytes, r->read_only ? PROT_READ : PROT_READ | PROT_WRITE) == 0);
      break;
    case 3:
    case 4:
      if (!r->read_only) store(r);
      break;
    case 5:
    case 6:  // what is read-only to the program is not so to a device that has it pinned
      if (r->read_only && !r->pinned) break;
      submit(r, pattern_fd, (uint64_t)number * kBytes);
      finish(r);
      memcpy(r->copy, patterns[number], kBytes);
      ++transfers;
      break;
    case 7:
      if (alive) end_one();
      break;
    case 8:  // a fork in the middle of a transfer
      if (alive == kChildren || (r->read_only && !r->pinned)) break;
      submit(r, data[0], 0);
      fork_one();
      ++*forked;
      CHECK(write(data[1], patterns[number], kBytes) == kBytes);
      finish(r);
      memcpy(r->copy, patterns[number], kBytes);
      ++transfers;
      break;
    case 9:
      if (alive == kChildren) break;
      fork_one();
      ++*forked;
  }
}

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  state = strtoull(argv[1], NULL, 10) * 2654435769u + 1;
  const unsigned forks = (unsigned)atoi(argv[2]);
  CHECK(chdir(argv[3]) == 0);
  pattern_fd = open("patterns", O_RDWR | O_CREAT | O_TRUNC, 0644);
  for (unsigned n = 0; n < kPatterns; ++n)
    for (unsigned i = 0; i < kBytes; ++i) patterns[n][i] = (unsigned char)(n * 31 + i / kPage * 5 + i);
  CHECK(write(pattern_fd, patterns, sizeof patterns) == sizeof patterns);
  int data[2];
  CHECK(pipe(data) == 0 && fcntl(data[1], F_SETPIPE_SZ, 2 * kBytes) >= kBytes);
  for (int i = 0; i < kRegions; ++i) start(&regions[i]);
  pthread_t streams[kStreams];
  for (int i = 0; i < kStreams; ++i) CHECK(pthread_create(&streams[i], NULL, stream, (void*)(uintptr_t)(i * 20)) == 0);

  for (unsigned forked = 0; forked < forks; ++operations) {
    step(data, &forked);
    for (int i = 0; i < kRegions; ++i) CHECK(as_it_should_be(&regions[i]));
  }
  while (alive) end_one();
  over = true;
  for (int i = 0; i < kStreams; ++i) {
    void* count;
    CHECK(pthread_join(streams[i], &count) == 0 && count != NULL);
    transfers += (uintptr_t)count;
  }
  for (int i = 0; i < kRegions; ++i) io_uring_queue_exit(&regions[i].ring);
  printf("%u forks, every byte as it should be\n", forks);
  fprintf(stderr, "%llu operations, %llu transfers\n", (unsigned long long)operations, (unsigned long long)transfers);
  return 0;
}
