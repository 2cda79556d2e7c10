// For processes.c and its parts: children that do something and end, memory to share with them, and the cases. Whoever
// includes it defines _GNU_SOURCE before any header.
#pragma once

#include <stdint.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static inline pid_t child_of(void (*run)(void*), void* argument) {
  fflush(stdout);
  pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid == 0) {
    run(argument);
    fflush(stdout);
    _exit(0);
  }
  return pid;
}

static inline int status_of(pid_t pid) {
  int status = -1;
  CHECK(waitpid(pid, &status, 0) == pid);
  return status;
}

static inline void ends_well(pid_t pid) {
  int status = status_of(pid);
  if (status != 0) printf("status %#x\n", status);
  CHECK(status == 0);
}

static inline void exit_with(void* code) { _exit((int)(intptr_t)code); }
static inline void wait_for_ever(void* unused) {
  (void)unused;
  for (;;) pause();
}
// Until the other end of the pipe is closed.
static inline void wait_for_end(void* fd) {
  char c;
  while (read((int)(intptr_t)fd, &c, 1) > 0) {
  }
}
static inline void* shared_memory(size_t bytes) {
  void* memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(memory != MAP_FAILED);
  return memory;
}

// --- the cases: one in each run of the program ---

// processes_wait.c
void basics(void), orphans(void);
// processes_many.c; the numbers are of processes, or of rounds
void tree(int width), many(int number), threaded(int rounds), limit(void), bomb(void);
// processes_files.c
void pipeline(void), files(const char* directory);
// processes_shared.c
void shared(const char* directory);
// processes_signals.c
void signals(void);
// processes_hostile.c
void hostile(uint64_t seed);
