// Calls that fail half-way: what is done by then stays, as Linux leaves it. Prints what it finds, to be compared with a native run.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { kPage = 4096, kPages = 8 };
static sigjmp_buf back;
static void on_fault(int sig) { siglongjmp(back, sig); }

static void must(int holds, const char* what) {
  if (holds) return;
  perror(what);
  exit(1);
}

static char* pages;   // all of them readable and writable, but for the holes of a case
static void lay_out(const char* holes) {
  for (int i = 0; i < kPages; ++i) {
    char* at = pages + (long)i * kPage;
    if (strchr(holes, '0' + i)) {
      must(munmap(at, kPage) == 0, "munmap");
    } else {
      must(mmap(at, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at, "mmap");
      memset(at, 'a' + i, kPage);
    }
  }
}
// '-': nothing is there, 'r', 'w': what may be done; then what it holds, '.' for zeroes.
static void show(const char* what, long result) {
  const int error = result < 0 ? errno : 0;
  char line[3 * kPages + 1] = "";
  for (volatile int i = 0; i < kPages; ++i) {
    volatile char* at = pages + (long)i * kPage;
    volatile char can = '-', is = ' ';
    if (sigsetjmp(back, 1) == 0) {
      is = *at ? *at : '.';
      can = 'r';
      *at = *at;
      can = 'w';
    }
    sprintf(line + 3 * i, " %c%c", can, is);
  }
  printf("%-44s %5ld %-7s%s\n", what, result, error ? strerrorname_np(error) : "", line);
}
static char* page(int i) { return pages + (long)i * kPage; }

static void protections(int read_only_file) {
  lay_out("3");
  show("mprotect over a hole", mprotect(page(1), 5 * kPage, PROT_READ));
  show("and back", mprotect(page(1), 5 * kPage, PROT_READ | PROT_WRITE));
  lay_out("3");
  show("mprotect from a hole on", mprotect(page(3), 3 * kPage, PROT_READ));
  show("mprotect up to a hole", mprotect(page(0), 3 * kPage, PROT_READ));
  lay_out("35");
  show("mprotect over two holes", mprotect(page(0), 8 * kPage, PROT_NONE));
  lay_out("");
  must(mmap(page(4), kPage, PROT_READ, MAP_SHARED | MAP_FIXED, read_only_file, 0) == page(4), "mmap");
  must(mprotect(page(0), 8 * kPage, PROT_READ) == 0, "mprotect");
  show("mprotect over what cannot be written", mprotect(page(2), 5 * kPage, PROT_READ | PROT_WRITE));
  show("mprotect of what cannot be written", mprotect(page(4), 2 * kPage, PROT_READ | PROT_WRITE));
  lay_out("3");
  must(mmap(page(5), kPage, PROT_READ, MAP_SHARED | MAP_FIXED, read_only_file, 0) == page(5), "mmap");
  show("mprotect over both: the hole comes first", mprotect(page(1), 6 * kPage, PROT_READ | PROT_WRITE));
}

static void advice(int file) {
  lay_out("3");
  show("madvise(MADV_DONTNEED) over a hole", madvise(page(1), 5 * kPage, MADV_DONTNEED));
  lay_out("3");
  show("madvise of unknown advice", madvise(page(1), 5 * kPage, 77));
  show("madvise(MADV_WILLNEED) over a hole", madvise(page(1), 5 * kPage, MADV_WILLNEED));
  lay_out("");
  must(mmap(page(4), kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) == page(4), "mmap");
  show("madvise(MADV_WIPEONFORK), one of them shared", madvise(page(2), 5 * kPage, MADV_WIPEONFORK));
  fflush(stdout);
  const pid_t pid = fork();
  must(pid >= 0, "fork");
  if (pid == 0) {
    show("  in the child", 0);
    fflush(stdout);
    _exit(0);
  }
  must(waitpid(pid, NULL, 0) == pid, "waitpid");
  lay_out("3");
  show("madvise(MADV_POPULATE_WRITE) over a hole", madvise(page(1), 5 * kPage, MADV_POPULATE_WRITE));
  show("msync over a hole", msync(page(1), 5 * kPage, MS_ASYNC));
  show("munmap over a hole", munmap(page(1), 4 * kPage));
}

static void moves(void) {
  lay_out("3");
  errno = 0;
  show("mremap over a hole", (long)mremap(page(1), 5 * kPage, 6 * kPage, MREMAP_MAYMOVE) == -1 ? -1 : 0);
  lay_out("");
  must(mprotect(page(2), kPage, PROT_READ) == 0, "mprotect");
  show("mremap over two regions", (long)mremap(page(1), 2 * kPage, 3 * kPage, MREMAP_MAYMOVE) == -1 ? -1 : 0);
  show("mremap to what is shorter", mremap(page(4), 3 * kPage, kPage, 0) == page(4) ? 0 : -1);
}

// The last bytes before a hole.
static void transfers(int file) {
  int ends[2], pair[2];
  must(pipe(ends) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "pipe");
  char some[64];
  memset(some, 'x', sizeof some);
  lay_out("3");
  char* const edge = page(3);
  struct iovec good_bad[] = {{page(1), 10}, {edge, 10}}, bad_good[] = {{edge, 10}, {page(1), 10}},
               third_bad[] = {{page(1), 10}, {page(2), 10}, {edge, 10}}, kernel[] = {{page(1), 10}, {(void*)0xffff800000000000, 10}};
  const struct {
    const char* what;
    int in, out;
  } files[] = {{"file", file, file}, {"pipe", ends[0], ends[1]}, {"socket", pair[0], pair[1]}};
  for (unsigned i = 0; i < 3; ++i) {
    const int in = files[i].in, out = files[i].out;
    const long at = i == 0 ? 0 : -1;
    char what[64];
#define STEP(text, call)                                  \
  do {                                                    \
    snprintf(what, sizeof what, "%s: %s", files[i].what, text); \
    if (at == 0) lseek(file, 0, SEEK_SET);                \
    const long result = (call);                           \
    show(what, result);                                   \
  } while (0)
    STEP("writev, the second is bad", writev(out, good_bad, 2));
    STEP("writev, the first is bad", writev(out, bad_good, 2));
    STEP("writev, the third is bad", writev(out, third_bad, 3));
    STEP("writev, the second is not user memory", writev(out, kernel, 2));
    STEP("writev of none", writev(out, good_bad, 0));
    STEP("write over the edge", write(out, edge - 16, 32));
    STEP("write of what is not there", write(out, edge, 32));
    STEP("write", write(out, some, sizeof some));
    lay_out("3");
    STEP("readv, the second is bad", readv(in, good_bad, 2));
    STEP("readv, the second is not user memory", readv(in, kernel, 2));
    STEP("readv, the first is bad", readv(in, bad_good, 2));
    lay_out("3");
    if (i < 2) STEP("read over the edge", read(in, edge - 16, 32));
    STEP("read into nothing", read(in, edge, 32));
  }
  lay_out("3");
  const ssize_t n = getrandom(edge - 16, 32, 0);
  // How much of it fits is the kernel's way of copying, which is another on each architecture.
  printf("getrandom over the edge: %s\n", n < 0 ? strerrorname_np(errno) : 0 < n && n <= 16 ? "some" : "wrong");
  close(ends[0]), close(ends[1]), close(pair[0]), close(pair[1]);
}

int main(int count, char** words) {
  must(count > 1, "halfway DIRECTORY");
  const struct sigaction fault = {.sa_handler = on_fault};
  must(sigaction(SIGSEGV, &fault, NULL) == 0 && sigaction(SIGBUS, &fault, NULL) == 0, "sigaction");
  pages = mmap(NULL, kPages * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  must(pages != MAP_FAILED && chdir(words[1]) == 0, words[1]);
  const int file = open("half", O_RDWR | O_CREAT | O_TRUNC, 0600), read_only = open("half", O_RDONLY);
  must(file >= 0 && read_only >= 0 && ftruncate(file, kPage) == 0, "half");
  protections(read_only);
  advice(file);
  moves();
  transfers(file);
  return 0;
}
