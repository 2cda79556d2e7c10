// Attackers that make calls by the stub's page: what its filter lets through, files that were not shared, ends and stops.
#define _GNU_SOURCE
#include "attack_cases.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static const struct call calls[] = {
    // What it may, upon its own.
    {"futex wake", SYS_futex, {RAMET_TOLD, 1, 1}, 1},
    {"munmap of nothing of the guest's", SYS_munmap, {NOWHERE, kPage}, 1},
    {"mprotect of the same", SYS_mprotect, {NOWHERE, kPage, PROT_READ}, 1},
    {"mmap of no descriptor", SYS_mmap, {NOWHERE, kPage, 1, MAP_SHARED | MAP_FIXED, 1023, 0}, 1},
    // The stub itself.
    {"mmap over the stub", SYS_mmap, {RAMET_STUB_TEXT, kPage, 5, MAP_SHARED | MAP_FIXED, 0, 0}, 0},
    {"mmap that ends in the stub", SYS_mmap, {RAMET_STUB_TEXT - kPage, 2 * kPage, 5, MAP_SHARED | MAP_FIXED, 0, 0}, 0},
    {"mmap over what it is told", SYS_mmap, {RAMET_TOLD, kPage, 3, MAP_SHARED | MAP_FIXED, 0, 0}, 0},
    {"mmap whose end wraps", SYS_mmap, {~0xfffull, RAMET_STUB_TEXT + 2 * kPage, 5, MAP_SHARED | MAP_FIXED, 0, 0}, 0},
    {"mmap whose low halves carry", SYS_mmap, {((RAMET_USER_END >> 32) - 1) << 32 | 0xffe01000, 0xffffffff, 3, MAP_SHARED | MAP_FIXED, 0, 0}, 0},
    {"mmap, writable and executable", SYS_mmap, {NOWHERE, kPage, 7, MAP_SHARED | MAP_FIXED, 0, 0}, 0},
    {"mmap of no file", SYS_mmap, {NOWHERE, kPage, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, ~0ull, 0}, 0},
    {"mmap of shared memory of no file", SYS_mmap, {NOWHERE, kPage, 3, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, ~0ull, 0}, 0},
    {"munmap of the stub", SYS_munmap, {RAMET_STUB_TEXT, kPage}, 0},
    {"munmap of everything", SYS_munmap, {0, RAMET_TOP}, 0},
    {"munmap of its context", SYS_munmap, {RAMET_SAID + RAMET_SAID_SIZE, RAMET_SAID_SIZE}, 0},
    {"mprotect of the stub", SYS_mprotect, {RAMET_STUB_TEXT, kPage, 3}, 0},
    {"mprotect of what it is told", SYS_mprotect, {RAMET_TOLD + RAMET_TOLD_SIZE, kPage, 3}, 0},
    {"mprotect, growing down", SYS_mprotect, {NOWHERE, kPage, 0x01000001}, 0},
    {"mremap of the stub", SYS_mremap, {RAMET_STUB_TEXT, kPage, kPage, 3, NOWHERE}, 0},
    {"madvise(MADV_REMOVE)", SYS_madvise, {NOWHERE, kPage, 9}, 0},
    // What only its first thread may.
    {"recvmsg on its socket", SYS_recvmsg, {5, RAMET_SAID + 8192, 0}, 0},
    {"close of its socket", SYS_close, {5}, 0},
    {"seccomp", SYS_seccomp, {1, 4, RAMET_TOLD + 1023 * kPage}, 0},
    {"sigaltstack", SYS_sigaltstack, {RAMET_TOLD + TOLD_DATA, 0}, 0},
    {"sigprocmask", SYS_rt_sigprocmask, {2, RAMET_TOLD + TOLD_DATA, 0, 8}, 0},
    {"sendmsg on its socket", SYS_sendmsg, {5, RAMET_SAID + 8192, 0}, 0},
    {"sendmsg of what it sends", SYS_sendmsg, {5, RAMET_TOLD + TOLD_DATA, 0}, 0},
    {"seccomp with a listener", SYS_seccomp, {1, 12, RAMET_TOLD + 1023 * kPage}, 0},
    // The host.
    {"openat", SYS_openat, {~99ull, 0, 0}, 0},
    {"socket", SYS_socket, {1, 1, 0}, 0},
    {"futex on guest memory", SYS_futex, {NOWHERE, 1, 1}, 0},
    {"futex requeue", SYS_futex, {RAMET_TOLD, 3, 1}, 0},
    {"getpid", SYS_getpid, {0}, 0},
    {"kill", SYS_kill, {1, 0}, 0},
    {"tgkill", SYS_tgkill, {1, 1, 0}, 0},
    {"ptrace", SYS_ptrace, {16, 1}, 0},
    {"process_vm_writev", SYS_process_vm_writev, {1, 0, 0, 0, 0, 0}, 0},
    {"prctl(PR_SET_PDEATHSIG)", SYS_prctl, {1, 0}, 0},
    {"setsid", SYS_setsid, {0}, 0},
    {"dup", SYS_dup, {5}, 0},
    {"pidfd_open", SYS_pidfd_open, {1, 0}, 0},
    {"io_uring_setup", SYS_io_uring_setup, {1, 0}, 0},
    {"memfd_create", SYS_memfd_create, {0, 0}, 0},
    {"bpf", SYS_bpf, {0, 0, 0}, 0},
    {"userfaultfd", SYS_userfaultfd, {0}, 0},
    {"brk", SYS_brk, {0}, 0},
};

// A trap of another kind may come in between, but not always.
static unsigned traps_of(long number, const uint64_t a[6]) {
  unsigned least = ~0u;
  for (int round = 0; round < 6; ++round) {
    (void)stub_call_with(number, a);
    if (stub_traps() < least) least = stub_traps();
  }
  return least;
}

static int maps(long number) { return number == SYS_mmap || number == SYS_munmap || number == SYS_mprotect; }
static int hardened;  // its threads may not map

static void make_call(const struct call* c, unsigned of_an_allowed_one) {
  const int allowed = traps_of(c->number, c->a) == of_an_allowed_one;
  ++shared->progress;
  if (allowed == (c->allowed && !(hardened && maps(c->number)))) return;
  printf("%s, made by the stub's page: %s\n", c->what, allowed ? "allowed" : "refused");
  fflush(stdout);
  _exit(1);
}
static void make_calls(void) {
  const unsigned of_an_allowed_one = traps_of(SYS_futex, (const uint64_t[6]){RAMET_TOLD, 1, 1});
  for (unsigned i = 0; i < sizeof calls / sizeof *calls; ++i) make_call(&calls[i], of_an_allowed_one);
  for (unsigned i = 0; i < isa_call_count; ++i) make_call(&isa_calls[i], of_an_allowed_one);
}

void simple_calls(void) { CHECK(attempt(make_calls, 0) == 0); }
void hardened_calls(void) {
  hardened = 1;
  simple_calls();
}

// Opens, in every way it can, what lies outside of what it was given.
static void open_file(void) {
  const int flags[] = {O_RDONLY, O_RDWR, O_WRONLY | O_APPEND, O_PATH};
  for (unsigned i = 0; i < 4; ++i) {
    CHECK(stub_call(SYS_openat, (uint64_t)AT_FDCWD, (uint64_t)argument, (uint64_t)flags[i], 0) < 0);
  }
  CHECK(stub_call(SYS_truncate, (uint64_t)argument, 0) < 0);
  CHECK(stub_call(SYS_unlinkat, (uint64_t)AT_FDCWD, (uint64_t)argument, 0) < 0);
}
static void open_canary(void) {
  char path[4096];
  snprintf(path, sizeof path, "%s/../canary", argument);
  argument = path;
  open_file();
}
void files(void) { CHECK(attempt(open_canary, 0) == 0); }

// --- ends and stops ---

static void end_itself(void) {
  const struct regs r = {.pc = stub_fails_at()};
  (void)jump(&r);
  CHECK(!"it ends the program");
}
static void block_and_trap(void) {
  static struct forged frame;
  forge(&frame);
  memset(&frame.uc.uc_sigmask, 0xff, 8);
  (void)use_frame(&frame);
}
void ends(void) {
  // A call of the guest's like any other: the program's status is 3.
  const pid_t pid = fork();
  if (pid == 0) {
    take_over();
    end_itself();
  }
  int status;
  CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 3);
  CHECK(WIFSIGNALED(attempt(block_and_trap, 0)));
}

static void stop_itself(void) {
  (void)stub_call(SYS_kill, (uint64_t)getpid(), SIGSTOP);
  (void)stub_call(SYS_tgkill, (uint64_t)getpid(), (uint64_t)syscall(SYS_gettid), SIGSTOP);
}
void stops(void) {
  ++attempts;
  const pid_t pid = fork();
  if (pid == 0) {
    take_over();
    stop_itself();
    _exit(0);
  }
  int status, stopped = 0;
  for (;;) {
    CHECK(waitpid(pid, &status, WUNTRACED) == pid);
    if (!WIFSTOPPED(status)) break;
    ++stopped;
    look();
    CHECK(kill(pid, SIGCONT) == 0);
  }
  CHECK(stopped == 2 && status == 0);  // as the guest's own calls
  ++ended;
}
