// Code that changes while a program runs, in each way that memory is written: by its own stores, by the system, through
// another mapping, in a copy after fork, at an address that something else was at. What runs is what was written last.
//   code_changes             synchronises what it has written, as programs must
//   code_changes unsynced    leaves that to the system, which sees pages change between writable and executable
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "isa.h"

enum { PAGE = 4096 };
typedef int (*function)(void);

// A function that returns n, below 65,536.
static size_t code_of(int n, unsigned char *to) { return isa_function((uint16_t)n, to); }

static int unsynced;
static void sync_code(void *at, size_t bytes) { if (!unsynced) __builtin___clear_cache((char *)at, (char *)at + bytes); }
static int run(const void *at) {
  function f;
  memcpy(&f, &at, sizeof f);
  return f();
}

static unsigned char *map(int prot) {
  unsigned char *at = mmap(NULL, PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(at != MAP_FAILED);
  return at;
}

static void by_stores(void) {
  unsigned char *at = map(PROT_READ | PROT_WRITE | PROT_EXEC);
  for (int n = 1; n < 50; n++) {
    sync_code(at, code_of(n, at));
    CHECK(run(at) == n);
  }
  for (int n = 50; n < 100; n++) {
    CHECK(mprotect(at, PAGE, PROT_READ | PROT_WRITE) == 0);
    sync_code(at, code_of(n, at));
    CHECK(mprotect(at, PAGE, PROT_READ | PROT_EXEC) == 0);
    CHECK(run(at) == n);
  }
  CHECK(munmap(at, PAGE) == 0);
}

static void by_the_system(void) {
  unsigned char *at = map(PROT_READ | PROT_WRITE | PROT_EXEC), code[16];
  int ends[2];
  CHECK(pipe(ends) == 0);
  for (int n = 100; n < 150; n++) {
    const size_t bytes = code_of(n, code);
    CHECK(write(ends[1], code, bytes) == (ssize_t)bytes);
    CHECK(read(ends[0], at, bytes) == (ssize_t)bytes);
    sync_code(at, bytes);
    CHECK(run(at) == n);
  }
  CHECK(close(ends[0]) == 0 && close(ends[1]) == 0);
  CHECK(munmap(at, PAGE) == 0);
}

// Through another mapping of the same memory.
static void by_another_mapping(void) {
  const int file = memfd_create("code", 0);
  CHECK(file >= 0 && ftruncate(file, PAGE) == 0);
  unsigned char *data = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  unsigned char *code = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, file, 0);
  CHECK(data != MAP_FAILED && code != MAP_FAILED);
  for (int n = 150; n < 200; n++) {
    sync_code(code, code_of(n, data));
    CHECK(run(code) == n);
  }
  // And by a call upon the file.
  unsigned char text[16];
  for (int n = 200; n < 250; n++) {
    const size_t bytes = code_of(n, text);
    CHECK(pwrite(file, text, bytes, 0) == (ssize_t)bytes);
    sync_code(code, bytes);
    CHECK(run(code) == n);
  }
  CHECK(close(file) == 0 && munmap(data, PAGE) == 0 && munmap(code, PAGE) == 0);
}

// What is mapped there is something else.
static void by_mapping(void) {
  unsigned char *at = map(PROT_READ | PROT_WRITE | PROT_EXEC);
  sync_code(at, code_of(1, at));
  CHECK(run(at) == 1);
  for (int n = 250; n < 300; n++) {
    CHECK(mmap(at, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at);
    (void)code_of(n, at);
    CHECK(mprotect(at, PAGE, PROT_READ | PROT_EXEC) == 0);
    sync_code(at, 16);
    CHECK(run(at) == n);
    unsigned char *moved = mremap(at, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at - 16 * PAGE);
    CHECK(moved == at - 16 * PAGE && run(moved) == n);
    CHECK(munmap(moved, PAGE) == 0);
  }
}

static void in_copies(void) {
  unsigned char *at = map(PROT_READ | PROT_WRITE | PROT_EXEC);
  sync_code(at, code_of(300, at));
  CHECK(run(at) == 300);
  for (int n = 301; n < 310; n++) {
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
      if (run(at) != 300) _exit(1);
      sync_code(at, code_of(n, at));
      _exit(run(at) == n ? 0 : 2);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(run(at) == 300);
  }
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    usleep(10000);
    _exit(run(at) == 300 ? 0 : 1);
  }
  sync_code(at, code_of(310, at));
  CHECK(run(at) == 310);
  int status;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  CHECK(munmap(at, PAGE) == 0);
}

// One thread writes, another runs it: it is told by a flag when.
static struct {
  unsigned char *data, *code;
  _Atomic int ready, ran;
} shared;

static void *runner(void *unused) {
  (void)unused;
  for (int n = 1; n < 200; n++) {
    while (shared.ready != n) {
    }
    isa_fetch_anew();
    CHECK(run(shared.code) == n);
    shared.ran = n;
  }
  return NULL;
}

static void for_another_thread(void) {
  const int file = memfd_create("code", 0);
  CHECK(file >= 0 && ftruncate(file, PAGE) == 0);
  shared.data = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  shared.code = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, file, 0);
  CHECK(shared.data != MAP_FAILED && shared.code != MAP_FAILED);
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, runner, NULL) == 0);
  for (int n = 1; n < 200; n++) {
    sync_code(shared.code, code_of(n, shared.data));
    shared.ready = n;
    while (shared.ran != n) {
    }
  }
  CHECK(pthread_join(thread, NULL) == 0);
}

int main(int argc, char **argv) {
  unsynced = argc > 1 && strcmp(argv[1], "unsynced") == 0;
  by_stores();
  by_the_system();
  by_mapping();
  in_copies();
  if (!unsynced) by_another_mapping(), for_another_thread();
  puts("code changes: ok");
  return 0;
}
