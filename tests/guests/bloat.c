// Asks for one thing again and again, until the host, or who stands for it, says no: everything that a program's calls can
// make its kernel keep. `bloat CASE`. Prints what it was told, waits for a line on standard input so that somebody can
// look at what it costs, lets go of everything and checks that the same thing can be had again.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ring.h"

enum { kPage = 4096, kPages = 4096, kCushion = 64 * kPage };

// Had before the limit is reached: who has reached it needs some pages to say so, and would be ended for want of one.
static char* cushion;

static int full(const char* what, int error) {
  if (cushion) CHECK(munmap(cushion, kCushion) == 0);
  cushion = NULL;
  printf("%s: %s\nfull\n", what, strerrorname_np(error));
  fflush(stdout);
  return getchar() == EOF;
}

// Neighbouring pages lie apart on the host: each is moved to its place by itself.
static char* scattered(void) {
  const size_t bytes = (size_t)kPages * kPage;
  char* from = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  char* to = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(from != MAP_FAILED && to != MAP_FAILED);
  memset(from, 1, bytes);
  for (size_t i = 0; i < kPages; ++i) {
    const size_t place = i * 1021 % kPages;  // odd: each once
    CHECK(mremap(from + i * kPage, kPage, kPage, MREMAP_MAYMOVE | MREMAP_FIXED, to + place * kPage) == to + place * kPage);
  }
  return to;
}

// --- io_uring ---

static void ring_of(struct io_uring* ring) {
  struct io_uring_params p = {.flags = IORING_SETUP_CQSIZE, .cq_entries = 65536};
  CHECK(io_uring_queue_init_params(1024, ring, &p) == 0);
}

// Entries that wait, prepared by `prepare`: until they cannot be submitted any more, or complete with an error.
static int fill(struct io_uring* ring, void (*prepare)(struct io_uring_sqe*, void*), void* argument) {
  for (unsigned n = 0; n < 70000;) {
    for (struct io_uring_sqe* sqe; (sqe = io_uring_get_sqe(ring)); ++n) prepare(sqe, argument);
    const int r = io_uring_submit(ring);
    struct io_uring_cqe* cqe;
    if (r < 0) return -r;
    if (io_uring_peek_cqe(ring, &cqe) == 0) {
      const int error = -cqe->res;
      io_uring_cqe_seen(ring, cqe);
      return error;
    }
  }
  return 0;
}

struct transfer { int fd; char* at; unsigned bytes; unsigned flags; };
static void read_scattered(struct io_uring_sqe* sqe, void* argument) {
  struct transfer* t = argument;
  io_uring_prep_read(sqe, t->fd, t->at, t->bytes, 0);
  sqe->flags |= t->flags;
}
static void wait_long(struct io_uring_sqe* sqe, void* argument) {
  (void)argument;
  static struct __kernel_timespec long_time = {.tv_sec = 1000};
  io_uring_prep_timeout(sqe, &long_time, 0, 0);
}

static void entries(const char* name, void (*prepare)(struct io_uring_sqe*, void*), struct transfer t) {
  int ends[2];
  CHECK(pipe(ends) == 0);
  t.fd = ends[0];
  for (int again = 0; again < 2; ++again) {
    struct io_uring ring;
    ring_of(&ring);
    const int error = fill(&ring, prepare, &t);
    CHECK(error == EAGAIN || error == ENOMEM || error == EBUSY);
    if (!again) full(name, ENOMEM);
    io_uring_queue_exit(&ring);
  }
}
static void requests(void) { entries("requests", wait_long, (struct transfer){0}); }
static void buffers_in_flight(void) {
  entries("buffers_in_flight", read_scattered, (struct transfer){.at = scattered(), .bytes = kPages * kPage});
}
static void workers(void) {
  entries("workers", read_scattered, (struct transfer){.at = scattered(), .bytes = 16, .flags = IOSQE_ASYNC});
}

static void registered(void) {
  const size_t bytes = (size_t)kPages * kPage;
  struct iovec same[64];
  char* at = scattered();
  for (int i = 0; i < 64; ++i) same[i] = (struct iovec){at, bytes};
  struct io_uring ring;
  ring_of(&ring);
  const int r = io_uring_register_buffers(&ring, same, 64);
  CHECK(r == -ENOMEM);
  CHECK(io_uring_register_buffers(&ring, same, 1) == 0);
  full("registered", -r);
  CHECK(io_uring_unregister_buffers(&ring) == 0);
  CHECK(io_uring_register_buffers(&ring, same, 1) == 0);
}

static void rings(void) {
  struct io_uring ring[300];
  int n = 0, r = 0;
  while (n < 300 && r == 0) {
    struct io_uring_params p = {.flags = IORING_SETUP_CQSIZE, .cq_entries = 65536};
    r = io_uring_queue_init_params(16384, &ring[n], &p);
    n += r == 0;
  }
  CHECK(r == -ENOMEM && n > 0);
  full("rings", -r);
  while (n > 0) io_uring_queue_exit(&ring[--n]);
  ring_of(&ring[0]);
}

// --- buffers of system calls, from many threads ---

static char* pieces;
static void* reader(void* ends) {
  enum { kSegments = 1024 };
  static __thread struct iovec all[kSegments];
  for (int i = 0; i < kSegments; ++i) all[i] = (struct iovec){pieces, (size_t)kPages * kPage};
  CHECK(readv(*(int*)ends, all, kSegments) >= 0);
  return NULL;
}
static void buffers(void) {
  enum { kThreads = 16 };
  int ends[2];
  CHECK(pipe(ends) == 0);
  pieces = scattered();
  pthread_t thread[kThreads];
  for (int i = 0; i < kThreads; ++i) CHECK(pthread_create(&thread[i], NULL, reader, ends) == 0);
  usleep(300000);  // all of them wait, or soon will: what is looked at is a bound
  full("buffers", 0);
  close(ends[1]);
  for (int i = 0; i < kThreads; ++i) CHECK(pthread_join(thread[i], NULL) == 0);
}

// --- open files ---

static int ends_of[4096][2];
static void couples(const char* name, int (*make)(int[2]), int expected) {
  for (int again = 0; again < 2; ++again) {
    int n = 0;
    while (make(ends_of[n]) == 0) ++n;
    CHECK(errno == expected && n > 20);
    if (!again) full(name, expected);
    while (n > 0) --n, close(ends_of[n][0]), close(ends_of[n][1]);
  }
}
static int socket_couple(int ends[2]) { return socketpair(AF_UNIX, SOCK_STREAM, 0, ends); }
// Two megabytes of each, if it were not for the limit.
static int large_pipe(int ends[2]) {
  if (pipe(ends) != 0) return -1;
  if (fcntl(ends[0], F_SETPIPE_SZ, 1 << 20) > 0) return 0;
  const int saved = errno;
  close(ends[0]), close(ends[1]);
  errno = saved;
  return -1;
}
static void pipes(void) { couples("pipes", pipe, ENFILE); }
static void large_pipes(void) { couples("large_pipes", large_pipe, EPERM); }
static void sockets(void) { couples("sockets", socket_couple, ENFILE); }

static void watches(void) {
  static int events[2048], sets[1024];
  for (int i = 0; i < 2048; ++i) CHECK((events[i] = eventfd(0, 0)) >= 0);
  int made = 0, error = 0;
  while (!error && made < 1024) {
    CHECK((sets[made] = epoll_create1(0)) >= 0);
    for (int i = 0; i < 2048 && !error; ++i) {
      struct epoll_event event = {.events = EPOLLIN};
      if (epoll_ctl(sets[made], EPOLL_CTL_ADD, events[i], &event) != 0) error = errno;
    }
    ++made;
  }
  CHECK(error == ENOSPC);
  full("watches", error);
  while (made > 0) close(sets[--made]);
  // Descriptors that are closed leave the list without a word; that is no reason to refuse others.
  CHECK((sets[0] = epoll_create1(0)) >= 0);
  for (int i = 0; i < 10000; ++i) {
    const int event = eventfd(0, 0);
    struct epoll_event e = {.events = EPOLLIN};
    CHECK(event >= 0 && epoll_ctl(sets[0], EPOLL_CTL_ADD, event, &e) == 0);
    close(event);
  }
}

static void locks(void) {
  // The kernel finds its place for a lock by looking at all: few are enough.
  CHECK(mmap(NULL, 6 << 20, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
  char path[] = "/tmp/bloat-XXXXXX";
  const int fd = mkstemp(path);
  CHECK(fd >= 0);
  int error = 0;
  for (off_t at = 0; !error && at < 400000; at += 2) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};
    if (fcntl(fd, F_SETLK, &lock) != 0) error = errno;
  }
  CHECK(error == ENOLCK);
  full("locks", error);
  struct flock all = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
  CHECK(fcntl(fd, F_SETLK, &all) == 0);
  for (int i = 0; i < 20000; ++i) {
    struct flock lock = {.l_type = i % 2 ? F_UNLCK : F_WRLCK, .l_whence = SEEK_SET, .l_start = i / 2, .l_len = 1};
    CHECK(fcntl(fd, F_SETLK, &lock) == 0);
  }
  unlink(path);
}

// --- processes that use up the host's mappings together ---

static int map_until_refused(void) {
  int error = 0;
  for (int i = 0; i < 40000 && !error; ++i)
    if (mmap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0) == MAP_FAILED) error = errno;
  return error;
}
static void mappings(void) {
  enum { kProcesses = 3 };
  int told[2], go[2];
  CHECK(pipe(told) == 0 && pipe(go) == 0);
  for (int i = 0; i < kProcesses; ++i) {
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
      const int error = map_until_refused();
      char c = 0;
      CHECK(write(told[1], &error, sizeof error) == sizeof error);
      CHECK(read(go[0], &c, 1) == 1);
      // Works on: memory of its own, and a child.
      char* own = malloc(1 << 20);
      CHECK(own);
      memset(own, 1, 1 << 20);
      _Exit(0);
    }
  }
  for (int i = 0; i < kProcesses; ++i) {
    int error;
    CHECK(read(told[0], &error, sizeof error) == sizeof error && error == ENOMEM);
  }
  CHECK_ERRNO((intptr_t)mmap(NULL, kPage, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0), ENOMEM);
  full("mappings", ENOMEM);
  CHECK(write(go[1], "xxx", kProcesses) == kProcesses);
  for (int i = 0; i < kProcesses; ++i) {
    int status;
    CHECK(wait(&status) > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
  // The memory of processes that have ended may be taken apart a little later.
  while (mmap(NULL, kPage, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0) == MAP_FAILED) CHECK(errno == ENOMEM);
}

int main(int argc, char** argv) {
  static const struct {
    const char* name;
    void (*run)(void);
  } cases[] = {{"requests", requests}, {"buffers_in_flight", buffers_in_flight}, {"workers", workers},
               {"registered", registered}, {"rings", rings}, {"buffers", buffers}, {"pipes", pipes},
               {"large_pipes", large_pipes}, {"sockets", sockets}, {"watches", watches}, {"locks", locks},
               {"mappings", mappings}};
  cushion = mmap(NULL, kCushion, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  CHECK(cushion != MAP_FAILED);
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; ++i) {
    if (argc != 2 || strcmp(argv[1], cases[i].name) != 0) continue;
    cases[i].run();
    puts("works on");
    return 0;
  }
  fprintf(stderr, "bloat CASE\n");
  return 2;
}
