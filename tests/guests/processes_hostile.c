// Processes: calls with nonsense.
#define _GNU_SOURCE
#include <signal.h>
#include <sys/syscall.h>

#include "isa.h"
#include "processes.h"

// Wrong arguments to all that makes, ends and waits for processes. Guests only: it would make namespaces natively.
static uint64_t state;
static uint64_t next(void) {
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return state;
}
static long odd(void) {
  static char place[256] __attribute__((aligned(16)));
  switch (next() % 6) {
    case 0: return 0;
    case 1: return (long)next();
    case 2: return (long)(next() % 64);
    case 3: return (long)&place[next() % 200];
    case 4: return (long)(0x7ffffffff000 - next() % 5000);
    default: return -(long)(next() % 5000);
  }
}
void hostile(uint64_t seed) {
  state = seed * 2 + 1;
  static uint64_t arguments[16];
  int status;
  const uint64_t all = ~0ull;  // children end with any signal; glibc would leave out its own
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, NULL, sizeof all);
  for (int round = 0; round < 2000; ++round) {
    long flags = (long)(next() % 4 ? SIGCHLD : next() % 256);
    if ((flags & 0x7f) == SIGKILL || (flags & 0x7f) == SIGSTOP) flags = SIGCHLD;
    for (uint64_t n = next() % 5; n; --n) flags |= 0x100l << next() % 24;
    if (next() % 3 == 0) flags |= 0x10f00;  // what threads share
    switch (next() % 8) {
      case 0:
        isa_clone(SYS_clone, flags, next() % 2 ? 0 : odd(), odd(), odd(), odd());
        break;
      case 1:
        for (int i = 0; i < 16; ++i) arguments[i] = next() % 2 ? 0 : (uint64_t)odd();
        arguments[0] = (uint64_t)flags & ~0xffull;
        if (next() % 2 || arguments[4] == SIGKILL || arguments[4] == SIGSTOP) arguments[4] = SIGCHLD;
        isa_clone(SYS_clone3, next() % 8 ? (long)arguments : odd(), (long)(next() % 8 ? 88 : next() % 5000), 0, 0, 0);
        break;
      case 2: syscall(next() % 2 ? SYS_execve : SYS_execveat, odd(), odd(), odd(), odd(), odd()); break;
      case 3: syscall(SYS_wait4, odd(), odd(), (int)odd() | WNOHANG, odd()); break;
      case 4: syscall(SYS_waitid, next() % 5, odd(), odd(), (int)odd() | WNOHANG, odd()); break;
      case 5: syscall(next() % 2 ? SYS_setpgid : SYS_getsid, odd(), odd()); break;
      case 6: syscall(next() % 2 ? SYS_kill : SYS_tkill, odd(), 0); break;
      default: syscall(SYS_prlimit64, odd(), next() % 20, 0, odd()); break;
    }
    while (waitpid(-1, &status, WNOHANG | __WALL) > 0) {
    }
  }
  while (waitpid(-1, &status, __WALL) > 0) {
  }
  puts("survived");
}
