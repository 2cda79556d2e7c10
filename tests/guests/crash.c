// Ends in one of the ways programs end badly. crash HOW [ARG]
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "isa.h"

#pragma GCC diagnostic ignored "-Winfinite-recursion"
static int overflow(volatile char* above) {
  volatile char block[4096];
  block[0] = above[0];
  return overflow(block) + block[0];
}

static const char constant[] = "constant";

static void* spin(void* arg) {
  for (volatile long i = 0;; ++i) {}
  return arg;
}

static void* wild(void* arg) {
  *(volatile char*)arg = 1;
  return NULL;
}

int main(int argc, char** argv) {
  CHECK(argc >= 2);
  const char* how = argv[1];
  puts("started");
  fflush(stdout);
  if (!strcmp(how, "exit")) return atoi(argv[2]);
  if (!strcmp(how, "null")) *(volatile int*)(uintptr_t)(argc - 2) = 1;
  if (!strcmp(how, "jump")) ((void (*)(void))(uintptr_t)0x123456789000)();
  if (!strcmp(how, "readonly")) *(volatile char*)(uintptr_t)constant = 1;
  if (!strcmp(how, "stack")) return overflow((volatile char*)how);
  if (!strcmp(how, "ill")) isa_undefined();
  if (!strcmp(how, "fpe")) return kIsaDivisionTraps ? isa_divide_by_zero(), 0 : raise(SIGFPE);
  if (!strcmp(how, "abort")) abort();
  if (!strcmp(how, "kill")) return raise(atoi(argv[2]));
  if (!strcmp(how, "spin")) spin(NULL);
  if (!strcmp(how, "sleep")) sleep(1000);
  if (!strcmp(how, "thread")) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, wild, (void*)16) == 0);
    pthread_join(thread, NULL);
  }
  if (!strcmp(how, "spinners")) {  // four threads spin and block every signal; the first sleeps
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    for (int i = 0; i < 4; ++i) {
      pthread_t thread;
      CHECK(pthread_create(&thread, NULL, spin, NULL) == 0);
    }
    for (;;) pause();
  }
  if (!strcmp(how, "handler")) {  // a handler whose stack is no memory: the signal becomes fatal
    struct sigaction action = {.sa_handler = SIG_DFL};
    action.sa_handler = (void (*)(int))(uintptr_t)exit;
    sigaction(SIGSEGV, &action, NULL);
    isa_push_at_4096();
  }
  if (!strcmp(how, "map") || !strcmp(how, "fill")) {  // memory: MIB at once, or one after the other
    size_t most = (size_t)atol(argv[2]) << 20, piece = !strcmp(how, "map") ? most : (size_t)1 << 20;
    for (size_t got = 0; got < most; got += piece) {
      char* p = mmap(NULL, piece, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (p == MAP_FAILED) {
        puts(errno == ENOMEM ? "ENOMEM" : strerror(errno));
        return 3;
      }
      memset(p, 1, piece);
    }
    puts("got it all");
    return 0;
  }
  if (!strcmp(how, "call")) {  // one bare system call
    long result = syscall(atol(argv[2]), -1, 0, 0, 0, 0, 0);
    printf("%ld %s\n", result, result < 0 ? strerror(errno) : "");
    return 0;
  }
  if (!strcmp(how, "triple")) {  // tries everything user code has to bring the machine down
    isa_bring_down();
  }
  return 99;
}
