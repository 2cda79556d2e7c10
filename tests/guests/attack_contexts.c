// Attackers that write into the pages in which their threads and the VMM talk.
#define _GNU_SOURCE
#include "attack_cases.h"

#include <pthread.h>
#include <sched.h>
#include <sys/wait.h>

static void* write_contexts(void* unused) {
  uint64_t x = 88172645463325252u + (uint64_t)unused;
  for (;;) {
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    const unsigned context = (unsigned)(x >> 40) % 6;
    // Words of what is said, pointers that look right, and anywhere in the frame.
    const uint64_t at = x >> 60 < 10 ? x % 8 * 8 : (x >> 20) % (RAMET_SAID_SIZE / 8) * 8;
    const uint64_t value = x & 1024 ? x : (uint64_t)SAID(context) + RAMET_SIGNAL_STACK + (x >> 30) % 0x3000 / 8 * 8;
    *(volatile uint64_t*)(SAID(context) + at) = value;
    if ((x & 0xff) == 0) sched_yield();
  }
  return NULL;
}
static void garble_contexts(void) {
  pthread_t thread;
  alarm(8);  // four of them share the processors
  signal(SIGALRM, SIG_DFL);
  for (uint64_t i = 0; i < 2; ++i) (void)pthread_create(&thread, NULL, write_contexts, (void*)i);
  for (;;) {
    volatile char* p = mmap(NULL, 64 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) continue;
    for (int i = 0; i < 64; i += 8) p[i * kPage] = 1;
    (void)mprotect((void*)p, 32 * kPage, PROT_READ);
    const pid_t child = fork();
    if (child == 0) _exit(0);
    if (child > 0) waitpid(child, NULL, 0);
    munmap((void*)p, 64 * kPage);
  }
}
static int four(void) {
  static int begun;
  return begun++ < 4;
}
void contexts(void) { attempt_all(four, garble_contexts, 9); }

// The mapper's answers never look like answers, and its word never stays the same for long.
static void* overwrite_answers(void* unused) {
  for (uint32_t i = 0;; ++i) WORD(SAID(0) + SAID_DONE) = 0x80000000u + i;
  return unused;
}
static void hide_answers(void) {
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, overwrite_answers, NULL) == 0);
  char* p = mmap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  for (;;) {
    *(volatile char*)p = 1;
    (void)mprotect(p, kPage, PROT_READ);
    (void)mprotect(p, kPage, PROT_READ | PROT_WRITE);
  }
}
void hidden_answers(void) { CHECK(WIFSIGNALED(attempt(hide_answers, 20))); }
