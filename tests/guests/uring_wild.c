// A hostile user of io_uring: rings whose memory is full of nonsense, changed by other threads while calls look at it,
// and entries that are almost right. uring_wild SEED ROUNDS DIRECTORY. It must get to its end.
#define _GNU_SOURCE
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include "check.h"

enum { kPage = 4096, kRings = 4, kArea = 64 * kPage };

static uint64_t next_random(uint64_t* state) {
  *state ^= *state << 13;
  *state ^= *state >> 7;
  return *state ^= *state << 17;
}

struct ring {
  int fd;
  struct io_uring_params params;
  unsigned char *queues, *entries;
  size_t queue_bytes, entry_bytes;
};
static struct ring rings[kRings];
static pthread_mutex_t making = PTHREAD_MUTEX_INITIALIZER;
static unsigned char* area;
static int fds[8], folder;
static volatile bool over;

static void make(struct ring* r, uint64_t* seed) {
  memset(&r->params, 0, sizeof r->params);
  r->params.flags = next_random(seed) % 4 ? 0 : (unsigned)next_random(seed) & 0x3fff;
  r->params.cq_entries = (unsigned)next_random(seed) % 64;
  r->fd = (int)syscall(SYS_io_uring_setup, 1 + next_random(seed) % 32, &r->params);
  if (r->fd < 0) return;
  r->queue_bytes = r->params.sq_off.array + r->params.sq_entries * 4;
  r->entry_bytes = r->params.sq_entries * sizeof(struct io_uring_sqe);
  // The memory of rings that have gone stays mapped: nobody must mind what happens to it.
  r->queues = mmap(NULL, r->queue_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, IORING_OFF_SQ_RING);
  r->entries = mmap(NULL, r->entry_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, IORING_OFF_SQES);
  CHECK(r->queues != MAP_FAILED && r->entries != MAP_FAILED);
}

static uint64_t address(uint64_t* seed) {
  switch (next_random(seed) % 8) {
    case 0: return next_random(seed);
    case 1: return 0;
    case 2: return (uintptr_t)rings[next_random(seed) % kRings].queues;
    case 3: return (uintptr_t)rings[next_random(seed) % kRings].entries;
    default: return (uintptr_t)area + next_random(seed) % kArea;
  }
}

static void fill(struct io_uring_sqe* sqe, uint64_t* seed) {
  static const unsigned char kOperations[] = {
      IORING_OP_NOP,        IORING_OP_READ,     IORING_OP_WRITE,       IORING_OP_READV,   IORING_OP_WRITEV,
      IORING_OP_READ_FIXED, IORING_OP_FSYNC,    IORING_OP_WRITE_FIXED, IORING_OP_TIMEOUT, IORING_OP_TIMEOUT_REMOVE,
      IORING_OP_POLL_ADD,   IORING_OP_POLL_REMOVE, IORING_OP_LINK_TIMEOUT, IORING_OP_ASYNC_CANCEL};
  memset(sqe, 0, sizeof *sqe);
  sqe->opcode = (unsigned char)next_random(seed);
  if (next_random(seed) % 16) sqe->opcode = kOperations[next_random(seed) % sizeof kOperations];
  sqe->flags = next_random(seed) % 2 ? 0 : (unsigned char)(next_random(seed) % 64);
  sqe->fd = next_random(seed) % 8 ? fds[next_random(seed) % 8] : (int)next_random(seed) % 16;
  sqe->addr = address(seed);
  sqe->len = next_random(seed) % 4 ? (unsigned)next_random(seed) % (2 * kPage) : (unsigned)next_random(seed);
  sqe->off = next_random(seed) % 4 ? next_random(seed) % (8 * kPage) : 0;  // a far one would make terabytes of a file
  sqe->user_data = next_random(seed) % 32;
  sqe->buf_index = (uint16_t)(next_random(seed) % 8 ? next_random(seed) % 3 : next_random(seed));
  if (sqe->opcode == IORING_OP_TIMEOUT || sqe->opcode == IORING_OP_LINK_TIMEOUT) sqe->len = 1;
  if (sqe->opcode == IORING_OP_POLL_ADD) sqe->len = 0, sqe->off = 0, sqe->addr = 0, sqe->buf_index = 0;
  if (sqe->opcode == IORING_OP_ASYNC_CANCEL) sqe->addr = next_random(seed) % 32, sqe->off = 0;
  if (next_random(seed) % 4 == 0) sqe->rw_flags = (int)next_random(seed) & 127;
  if (next_random(seed) % 64 == 0)
    for (size_t i = 0; i < sizeof *sqe; ++i) ((unsigned char*)sqe)[i] = (unsigned char)next_random(seed);
}

static void scribble(struct ring* r, uint64_t* seed) {
  unsigned* words = (unsigned*)r->queues;
  words[next_random(seed) % (r->queue_bytes / 4)] = (unsigned)next_random(seed);
  unsigned* tail = (unsigned*)(r->queues + r->params.sq_off.tail);
  if (next_random(seed) % 2) *tail += (unsigned)next_random(seed) % 8;
  fill((struct io_uring_sqe*)r->entries + next_random(seed) % r->params.sq_entries, seed);
}

static void call(struct ring* r, uint64_t* seed) {
  static struct __kernel_timespec soon = {0, 100000};
  struct io_uring_getevents_arg wait = {.ts = (uintptr_t)&soon};
  struct iovec iov[3] = {{(void*)address(seed), next_random(seed) % kArea}, {area, kArea}, {area + 5, 3 * kPage}};
  switch (next_random(seed) % 12) {
    case 0: syscall(SYS_io_uring_register, r->fd, IORING_REGISTER_BUFFERS, iov, 1 + next_random(seed) % 3); break;
    case 1: syscall(SYS_io_uring_register, r->fd, IORING_UNREGISTER_BUFFERS, NULL, 0); break;
    case 2: syscall(SYS_io_uring_register, r->fd, IORING_REGISTER_FILES, fds, 8); break;
    case 3: syscall(SYS_io_uring_register, r->fd, next_random(seed) % 32, address(seed), next_random(seed) % 10); break;
    case 4: syscall(SYS_io_uring_register, r->fd, IORING_REGISTER_EVENTFD, &fds[2], 1); break;
    case 5: {
      const int prot = PROT_READ | (next_random(seed) % 4 ? PROT_WRITE : 0);
      CHECK(mprotect(area + next_random(seed) % 60 * kPage, 4 * kPage, prot) == 0);
      break;
    }
    case 6: madvise(area + next_random(seed) % 60 * kPage, 4 * kPage, MADV_DONTNEED); break;
    default:
      // A queue's worth of entries of ours at the right place, whatever was scribbled.
      for (unsigned i = 0; i < r->params.sq_entries; ++i) ((unsigned*)(r->queues + r->params.sq_off.array))[i] = i;
      syscall(SYS_io_uring_enter, r->fd, next_random(seed) % 40, next_random(seed) % 8,
              IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &wait, sizeof wait);
  }
}

// Some kernels wait in IORING_UNREGISTER_BUFFERS for reads in flight, and here those may wait for ever.
static void interrupt(int signal) { (void)signal; }

static void* disturb(void* arg) {
  uint64_t seed = (uintptr_t)arg;
  while (!over) {
    struct ring* r = &rings[next_random(&seed) % kRings];
    if (pthread_mutex_lock(&making) != 0) break;
    if (r->fd >= 0) scribble(r, &seed);
    pthread_mutex_unlock(&making);
    // Keeps pipes from being full or empty for ever.
    char data[64];
    if (read(fds[0], data, sizeof data) < 0 && write(fds[1], data, sizeof data) < 0) sched_yield();
  }
  return NULL;
}

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  uint64_t seed = strtoull(argv[1], NULL, 0) * 2 + 1;
  const long rounds = atol(argv[2]);
  signal(SIGPIPE, SIG_IGN);
  struct sigaction alarm = {.sa_handler = interrupt};
  const struct itimerval often = {{0, 50000}, {0, 50000}};
  CHECK(sigaction(SIGALRM, &alarm, NULL) == 0 && setitimer(ITIMER_REAL, &often, NULL) == 0);
  area = mmap(NULL, kArea, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(area != MAP_FAILED && chdir(argv[3]) == 0);
  CHECK(pipe2(fds, O_NONBLOCK) == 0);
  fds[2] = eventfd(0, EFD_NONBLOCK);
  fds[3] = open("wild", O_RDWR | O_CREAT | O_TRUNC, 0644);
  fds[4] = memfd_create("wild", 0);
  fds[5] = folder = open(".", O_RDONLY | O_DIRECTORY);
  fds[6] = open("/proc/self/maps", O_RDONLY);
  fds[7] = open("/dev/zero", O_RDWR);
  for (int i = 0; i < kRings; ++i) make(&rings[i], &seed);
  pthread_t other;
  sigset_t timer;
  sigemptyset(&timer);
  sigaddset(&timer, SIGALRM);
  CHECK(pthread_sigmask(SIG_BLOCK, &timer, NULL) == 0);  // it is this thread that makes the calls
  CHECK(pthread_create(&other, NULL, disturb, (void*)(uintptr_t)next_random(&seed)) == 0);
  CHECK(pthread_sigmask(SIG_UNBLOCK, &timer, NULL) == 0);
  for (long round = 0; round < rounds; ++round) {
    struct ring* r = &rings[next_random(&seed) % kRings];
    if (r->fd < 0 || next_random(&seed) % 512 == 0) {
      CHECK(pthread_mutex_lock(&making) == 0);
      if (r->fd >= 0) {
        CHECK(close(r->fd) == 0);
        if (next_random(&seed) % 2)
          CHECK(munmap(r->queues, r->queue_bytes) == 0 && munmap(r->entries, r->entry_bytes) == 0);
      }
      make(r, &seed);
      CHECK(pthread_mutex_unlock(&making) == 0);
      continue;
    }
    if (next_random(&seed) % 2) scribble(r, &seed);
    call(r, &seed);
  }
  over = true;
  CHECK(pthread_join(other, NULL) == 0);
  puts("still there");
  return 0;
}
