// A guest that takes its own host process over and attacks from there: attack CASE [ARGUMENT], on the process machine
// only. Attackers are children; their parent and a bystander, whose memory they inherited, look afterwards at every byte
// of theirs, and the bystander goes on all the time.
#define _GNU_SOURCE
#include "attack.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { kInherited = 2 << 20, kPrivate = 1 << 20, kSecretWords = 64 };

// What all of the family see.
static struct shared {
  volatile uint64_t steps;  // of the bystander
  volatile int stop, ready;
  volatile unsigned progress;
  volatile uint64_t found[8];
} * shared;
static unsigned char *inherited, *own;
static unsigned attempts, ended, signalled, broken;
static int any_status;  // an attacker may end with any, as it jumps to calls that do so
static const char* argument;

static unsigned char pattern(size_t i, unsigned salt) { return (unsigned char)((i * 2654435761u + salt) >> 11); }
static void fill(unsigned char* memory, size_t bytes, unsigned salt) {
  for (size_t i = 0; i < bytes; ++i) memory[i] = pattern(i, salt);
}
static int holds(const unsigned char* memory, size_t bytes, unsigned salt) {
  for (size_t i = 0; i < bytes; ++i)
    if (memory[i] != pattern(i, salt)) return 0;
  return 1;
}

// What is written after the attacker was forked, so that it is in nothing that the attacker may see. Never in the
// attacker's own memory: it compares word by word.
static uint64_t secret(unsigned i) { return (i + 1) * 0x9e3779b97f4a7c15u ^ 0x5ec2e7; }

// --- the others ---

static pid_t start_bystander(void) {
  const pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid) return pid;
  unsigned char* memory = malloc(kPrivate);
  fill(memory, kPrivate, 77);
  while (!shared->stop) {
    // Memory and system calls: what a stalled family could not do.
    memory[shared->steps % kPrivate] = pattern(shared->steps % kPrivate, 77);
    if (shared->steps % 64 == 0) CHECK(getppid() > 0);
    if (shared->steps % 4096 == 0) usleep(1000);
    ++shared->steps;
  }
  CHECK(holds(inherited, kInherited, 1));
  CHECK(holds(memory, kPrivate, 77));
  _exit(0);
}

static void look(void) {
  const uint64_t before = shared->steps;
  while (shared->steps < before + 100) sched_yield();
  CHECK(holds(inherited, kInherited, 1));
  CHECK(holds(own, kPrivate, 2));
}

// In a child, which is killed after the alarm if it has not ended.
static int attempt(void (*attack)(void), unsigned seconds) {
  ++attempts;
  shared->ready = 0;
  const pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid == 0) {
    while (!shared->ready) sched_yield();
    take_over();
    attack();
    _exit(0);
  }
  for (unsigned i = 0; i < kSecretWords; ++i) ((volatile uint64_t*)(own + kPrivate))[i] = secret(i);
  shared->ready = 1;
  int status;
  for (unsigned i = 0; waitpid(pid, &status, seconds ? WNOHANG : 0) == 0; ++i) {
    usleep(100000);
    if (i >= 10 * seconds) {
      kill(pid, SIGKILL);
      seconds = 0;
    }
  }
  memset(own + kPrivate, 0, kSecretWords * 8);
  look();
  if (WIFEXITED(status)) {
    CHECK(any_status || WEXITSTATUS(status) == 0);
    ++ended;
  } else if (WTERMSIG(status) == SIGKILL) {
    ++broken;
  } else {
    ++signalled;
  }
  return status;
}

// --- the attacks ---

static const struct {
  const char* what;
  long number;
  uint64_t a[6];
  int allowed;
} calls[] = {
    // What it may, upon its own.
    {"futex wake", SYS_futex, {RAMET_TOLD, 1, 1}, 1},
    {"arch_prctl(ARCH_SET_GS)", SYS_arch_prctl, {0x1001, 0x1234}, 1},
    {"munmap of nothing of the guest's", SYS_munmap, {0x654320000000, kPage}, 1},
    {"mprotect of the same", SYS_mprotect, {0x654320000000, kPage, PROT_READ}, 1},
    {"mmap of no descriptor", SYS_mmap, {0x654320000000, kPage, 1, MAP_SHARED | MAP_FIXED, 1023, 0}, 1},
    // The stub itself.
    {"mmap over the stub", SYS_mmap, {RAMET_STUB_TEXT, kPage, 5, MAP_SHARED | MAP_FIXED, 0, 0}, 0},
    {"mmap that ends in the stub", SYS_mmap, {RAMET_STUB_TEXT - kPage, 2 * kPage, 5, MAP_SHARED | MAP_FIXED, 0, 0}, 0},
    {"mmap over what it is told", SYS_mmap, {RAMET_TOLD, kPage, 3, MAP_SHARED | MAP_FIXED, 0, 0}, 0},
    {"mmap whose end wraps", SYS_mmap, {~0xfffull, RAMET_STUB_TEXT + 2 * kPage, 5, MAP_SHARED | MAP_FIXED, 0, 0}, 0},
    {"mmap whose low halves carry", SYS_mmap, {0x7ffeffe01000, 0xffffffff, 3, MAP_SHARED | MAP_FIXED, 0, 0}, 0},
    {"mmap, writable and executable", SYS_mmap, {0x654320000000, kPage, 7, MAP_SHARED | MAP_FIXED, 0, 0}, 0},
    {"mmap of no file", SYS_mmap, {0x654320000000, kPage, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, ~0ull, 0}, 0},
    {"mmap of shared memory of no file", SYS_mmap, {0x654320000000, kPage, 3, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, ~0ull, 0}, 0},
    {"munmap of the stub", SYS_munmap, {RAMET_STUB_TEXT, kPage}, 0},
    {"munmap of everything", SYS_munmap, {0, RAMET_TOP}, 0},
    {"munmap of its context", SYS_munmap, {RAMET_SAID + RAMET_SAID_SIZE, RAMET_SAID_SIZE}, 0},
    {"mprotect of the stub", SYS_mprotect, {RAMET_STUB_TEXT, kPage, 3}, 0},
    {"mprotect of what it is told", SYS_mprotect, {RAMET_TOLD + RAMET_TOLD_SIZE, kPage, 3}, 0},
    {"mprotect, growing down", SYS_mprotect, {0x654320000000, kPage, 0x01000001}, 0},
    {"mremap of the stub", SYS_mremap, {RAMET_STUB_TEXT, kPage, kPage, 3, 0x654320000000}, 0},
    {"madvise(MADV_REMOVE)", SYS_madvise, {0x654320000000, kPage, 9}, 0},
    // What only its first thread may.
    {"recvmsg on its socket", SYS_recvmsg, {5, RAMET_SAID + 8192, 0}, 0},
    {"close of its socket", SYS_close, {5}, 0},
    {"seccomp", SYS_seccomp, {1, 4, RAMET_TOLD + 1023 * kPage}, 0},
    {"sigaltstack", SYS_sigaltstack, {RAMET_TOLD + TOLD_DATA, 0}, 0},
    {"sigprocmask", SYS_rt_sigprocmask, {2, RAMET_TOLD + TOLD_DATA, 0, 8}, 0},
    {"sendmsg on its socket", SYS_sendmsg, {5, RAMET_SAID + 8192, 0}, 0},
    // The host.
    {"open", SYS_open, {0, 0, 0}, 0},
    {"openat", SYS_openat, {~99ull, 0, 0}, 0},
    {"socket", SYS_socket, {1, 1, 0}, 0},
    {"futex on guest memory", SYS_futex, {0x654320000000, 1, 1}, 0},
    {"futex requeue", SYS_futex, {RAMET_TOLD, 3, 1}, 0},
    {"arch_prctl(ARCH_SET_CPUID)", SYS_arch_prctl, {0x1012, 1}, 0},
    {"getpid", SYS_getpid, {0}, 0},
    {"x32's getpid", SYS_getpid | 0x40000000, {0}, 0},
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

static void make_calls(void) {
  const unsigned of_an_allowed_one = traps_of(SYS_futex, (const uint64_t[6]){RAMET_TOLD, 1, 1});
  for (unsigned i = 0; i < sizeof calls / sizeof *calls; ++i) {
    const int allowed = traps_of(calls[i].number, calls[i].a) == of_an_allowed_one;
    ++shared->progress;
    if (allowed == calls[i].allowed) continue;
    printf("%s, made by the stub's page: %s\n", calls[i].what, allowed ? "allowed" : "refused");
    fflush(stdout);
    _exit(1);
  }
}

// Opens, in every way it can, what lies outside of what it was given.
static void open_file(void) {
  const int flags[] = {O_RDONLY, O_RDWR, O_WRONLY | O_APPEND, O_PATH};
  for (unsigned i = 0; i < 4; ++i) {
    CHECK(stub_call(SYS_open, (uint64_t)argument, (uint64_t)flags[i], 0) < 0);
    CHECK(stub_call(SYS_openat, (uint64_t)AT_FDCWD, (uint64_t)argument, (uint64_t)flags[i], 0) < 0);
  }
  CHECK(stub_call(SYS_truncate, (uint64_t)argument, 0) < 0);
  CHECK(stub_call(SYS_unlink, (uint64_t)argument) < 0);
}

// --- jumps ---

static unsigned step = 1;

static void jump_everywhere(void) {
  const unsigned context = own_context();
  static unsigned char copy[kPage];
  memcpy(copy, STUB, kPage);
  unsigned char* fake = mmap(NULL, 4 * RAMET_SAID_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  fake = (unsigned char*)(((uint64_t)fake + RAMET_SAID_SIZE - 1) & -(uint64_t)RAMET_SAID_SIZE);
  const uint64_t numbers[] = {SYS_mmap, SYS_mprotect, SYS_rt_sigreturn, SYS_futex, SYS_clone, SYS_exit_group};
  const uint64_t said[] = {(uint64_t)SAID(context), RAMET_SAID, (uint64_t)fake};
  const uint64_t told[] = {(uint64_t)TOLD(context), RAMET_TOLD, (uint64_t)fake + RAMET_SAID_SIZE};
  enum { kSets = 18 };
  while (shared->progress < kPage * kSets) {
    const unsigned n = shared->progress++;
    const unsigned at = n / kSets, set = n % kSets;
    if (at % step != 0) continue;
    // Behind the code the page is empty: one of these is as good as all.
    if (at >= 16 && memcmp(copy + at - 16, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 17) == 0 && at != kPage - 1) continue;
    // Served as the guest's own it would end the attacker.
    const uint64_t number = numbers[set / 3] == SYS_exit_group && at % 5 ? SYS_munmap : numbers[set / 3];
    const struct regs r = {.rax = number, .rbx = said[set % 3], .rsp = said[set % 3] + 8, .r13 = told[set % 3], .rcx = 3,
                           .rdi = RAMET_STUB_TEXT, .rsi = kPage, .rdx = 7, .r10 = MAP_SHARED | MAP_FIXED, .rbp = (uint64_t)fake,
                           .r14 = (uint64_t)fake, .r12 = set, .r15 = WORD(told[set % 3] + TOLD_GO), .rip = RAMET_STUB_TEXT + at};
    // It may wait there for ever.
    ualarm(20000, 20000);
    const int signal = jump(&r);
    ualarm(0, 0);
    ++shared->found[signal == SIGALRM];
    CHECK(memcmp(copy, STUB, kPage) == 0);
  }
}

static void jumps(void) {
  any_status = 1;
  while (shared->progress < kPage * 18) (void)attempt(jump_everywhere, 5);
  CHECK(shared->found[0] > 0);
}

// --- frames ---

static unsigned which;
static ucontext_t frame;
static _Alignas(64) unsigned char state[2 * kPage];
static unsigned char other_stack[RAMET_SAID_SIZE];

static void point_at_copy(void) {
  memcpy(state, frame.uc_mcontext.fpregs, 512 + 64);
  frame.uc_mcontext.fpregs = (fpregset_t)(void*)state;
  frame.uc_flags |= 1;  // UC_FP_XSTATE
}

static void set_stack(uint64_t at) {
  frame.uc_stack.ss_sp = (void*)at;
  frame.uc_mcontext.gregs[REG_RIP] = (greg_t)landed_call;
}

enum { kFrames = 22 };
static void forge_frame(void) {
  forge(&frame);
  greg_t* g = frame.uc_mcontext.gregs;
  switch (which) {
    case 0: memset(&frame.uc_sigmask, 0xff, 8), g[REG_RIP] = (greg_t)landed_call; break;
    case 1: memset(&frame.uc_sigmask, 0xff, 8), g[REG_RIP] = (greg_t)landed_int80; break;
    case 2: set_stack((uint64_t)other_stack); break;
    case 3: set_stack(RAMET_SAID + RAMET_SIGNAL_STACK); break;                        // the mapper's
    case 4: set_stack(RAMET_SAID + 5 * RAMET_SAID_SIZE + RAMET_SIGNAL_STACK); break;  // of a thread that there is not
    case 5: set_stack((uint64_t)SAID(own_context())); break;                          // over what is said
    case 6: set_stack(RAMET_TOLD); break;                                             // which it can only read
    case 7: set_stack(~0ull << 12); break;
    case 8: frame.uc_stack.ss_flags = SS_DISABLE, g[REG_RIP] = (greg_t)landed_call; break;
    case 9: frame.uc_stack.ss_size = 64, g[REG_RIP] = (greg_t)landed_call; break;
    case 10: point_at_copy(), memset(state + 512, 0xff, 64); break;                   // header of XSAVE
    case 11: point_at_copy(), memset(state + 464, 0xff, 48); break;                   // what the kernel says of the area
    case 12: point_at_copy(), memset(state + 24, 0xff, 8); break;                     // MXCSR
    case 13: frame.uc_mcontext.fpregs = (fpregset_t)0x8000000000000000u; break;
    case 14: frame.uc_mcontext.fpregs = (fpregset_t)(RAMET_TOLD + 64); break;
    case 15: g[REG_RIP] = (greg_t)0x8000000000000000u; break;
    case 16: g[REG_RSP] = (greg_t)0x8000000000000000u, g[REG_RIP] = (greg_t)landed_call; break;
    case 17: g[REG_RIP] = (greg_t)0xffffffffff600000u; break;
    case 18: g[REG_CSGSFS] = (greg_t)0x002b000000000023; break;                       // 32-bit code
    case 19: g[REG_CSGSFS] = 0x0010; break;                                           // the kernel's
    case 20: g[REG_CSGSFS] = (greg_t)0xfff3fff3fff3fff3u; break;
    case 21: g[REG_EFL] = -1, g[REG_RIP] = (greg_t)landed_call; break;
  }
  ++shared->found[use_frame(&frame) == SIGILL];
}

static void frames(void) {
  for (which = 0; which < kFrames; ++which) (void)attempt(forge_frame, 1);
}

// Its handler runs on memory of its own, with a told page of its own: nobody hears of its traps.
static void deaf(void) {
  forge(&frame);
  const uint64_t told = 0x7ff000000000, said = RAMET_SAID - 4 * (RAMET_TOLD - told);
  CHECK(mmap((void*)told, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == (void*)told);
  CHECK(mmap((void*)said, RAMET_SAID_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == (void*)said);
  memset((void*)told, 0, kPage);
  memset((void*)said, 0, RAMET_SAID_SIZE);
  set_stack(said + RAMET_SIGNAL_STACK);
  (void)use_frame(&frame);
}
// Nothing gets through to it, and it needs nothing.
static void silent(void) {
  forge(&frame);
  memset(&frame.uc_sigmask, 0xff, 8);
  frame.uc_mcontext.gregs[REG_RIP] = (greg_t)landed_loop;
  (void)use_frame(&frame);
}
static void never_answers(void) {
  CHECK(WIFSIGNALED(attempt(silent, 1)));
  CHECK(WIFSIGNALED(attempt(deaf, 1)));
}

// --- context pages ---

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
  alarm(2);
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
static void contexts(void) {
  for (int round = 0; round < 4; ++round) (void)attempt(garble_contexts, 3);
}

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
static void hidden_answers(void) { CHECK(WIFSIGNALED(attempt(hide_answers, 20))); }

// --- descriptors ---

enum { kWindow = 32 << 20, kDescriptors = 64 };
#define WINDOW ((unsigned char*)0x654000000000)

// How often what was written after the attacker was forked is in what it can see.
static unsigned secrets(const uint64_t* memory, size_t words) {
  unsigned hits = 0;
  for (size_t i = 0; i + kSecretWords <= words; ++i) {
    if (memory[i] != secret(0)) continue;
    unsigned same = 1;
    while (same < kSecretWords && memory[i + same] == secret(same)) ++same;
    hits += same == kSecretWords;
  }
  return hits;
}
// The same of the window, which may have pages that its file does not have.
__attribute__((noinline)) static unsigned secrets_in_window(void) {
  return sigsetjmp(back, 1) == 0 ? secrets((const uint64_t*)WINDOW, kWindow / 8) : 0;
}
static void map_descriptors(void) {
  unsigned readable = 0, writable = 0;
  for (uint64_t n = 0; n < kDescriptors; ++n) {
    if (stub_call(SYS_mmap, (uint64_t)WINDOW, kWindow, PROT_READ, MAP_SHARED | MAP_FIXED, n, 0) != (long)WINDOW) continue;
    ++readable;
    CHECK(secrets_in_window() == 0);
    if (stub_call(SYS_mmap, (uint64_t)WINDOW, kWindow, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, n, 0) == (long)WINDOW) ++writable;
    else CHECK(stub_call(SYS_mprotect, (uint64_t)WINDOW, kWindow, PROT_READ | PROT_WRITE) < 0);
  }
  CHECK(readable > 1 && writable >= 1 && writable < readable);  // its own, and the layer that it inherited
  for (uint64_t n = 3; n < kDescriptors; ++n) {
    (void)stub_call(SYS_ftruncate, n, 0);
    (void)stub_call(SYS_fallocate, n, 3 /* punch a hole */, 0, kWindow);
    (void)stub_call(SYS_fcntl, n, F_ADD_SEALS, F_SEAL_WRITE);
  }
  shared->found[0] = readable, shared->found[1] = writable;
}
// Whatever it can write is full of nonsense afterwards; that includes itself.
static void overwrite_descriptors(void) {
  shared->progress = 1;
  for (uint64_t n = 0; n < kDescriptors; ++n) {
    if (stub_call(SYS_mmap, (uint64_t)WINDOW, kWindow, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, n, 0) != (long)WINDOW) continue;
    memset(WINDOW, 0xee, kWindow);
  }
}
static void descriptors(void) {
  CHECK(attempt(map_descriptors, 0) == 0);
  (void)attempt(overwrite_descriptors, 5);
}

// --- filling ---

static void fill_mappings(void) {
  enum { kCommands = 70000 };
  const size_t bytes = TOLD_COMMANDS + (size_t)kCommands * 64, mapped = (bytes + kPage - 1) & -(size_t)kPage;
  unsigned char* memory = mmap(NULL, mapped + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(memory != MAP_FAILED && munmap(memory + mapped, kPage) == 0);
  unsigned char* told = memory + mapped - bytes;
  uint64_t descriptor = 0;  // one that can be mapped
  while (stub_call(SYS_mmap, (uint64_t)WINDOW, kPage, PROT_READ, MAP_SHARED | MAP_FIXED, descriptor, 0) < 0) CHECK(++descriptor < kDescriptors);
  for (uint64_t i = 0; i < kCommands; ++i) {
    const uint64_t command[8] = {SYS_mmap, (uint64_t)WINDOW + i * 2 * kPage, kPage, PROT_READ, MAP_SHARED | MAP_FIXED, descriptor, 0, 0};
    memcpy(told + TOLD_COMMANDS + i * 64, command, sizeof command);
  }
  stub_list(told);
  // No room for another mapping; what it needs for itself comes all the same.
  for (int i = 0; i < 300; ++i) {
    volatile char* p = mmap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    *p = 1;
  }
}
static void full_of_mappings(void) { CHECK(attempt(fill_mappings, 0) == 0); }

// More files than its process can have descriptors of.
static void fill_descriptors(void) {
  char name[64];
  for (int i = 0; i < 1200; ++i) {
    snprintf(name, sizeof name, "%s/attack-%d", argument, i);
    const int fd = open(name, O_RDWR | O_CREAT, 0600);
    CHECK(fd >= 0 && ftruncate(fd, kPage) == 0);
    volatile int* p = mmap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(p != MAP_FAILED);
    *p = i;
    CHECK(close(fd) == 0 && unlink(name) == 0);
  }
}
static void full_of_descriptors(void) { CHECK(attempt(fill_descriptors, 0) == 0); }

// --- others ---

static void end_itself(void) {
  // Where the stub ends a process that could not begin: mov $231, %eax; mov $3, %edi.
  for (unsigned i = 0; i + 10 < kPage; ++i) {
    if (memcmp(STUB + i, "\xb8\xe7\0\0\0\xbf\x03\0\0\0", 10) != 0) continue;
    const struct regs r = {.rip = RAMET_STUB_TEXT + i};
    (void)jump(&r);
  }
  CHECK(!"there is such a place, and it ends the program");
}
static void block_and_trap(void) {
  forge(&frame);
  memset(&frame.uc_sigmask, 0xff, 8);
  (void)use_frame(&frame);
}
static void ends(void) {
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
static void stops(void) {
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

static void use_signal_stack(void) {
  const uint64_t at[] = {(uint64_t)SAID(own_context()), RAMET_SAID, RAMET_SAID + 5 * RAMET_SAID_SIZE, RAMET_TOLD};
  for (unsigned i = 0; i < 4; ++i)
    for (unsigned offset = 0; offset < RAMET_SAID_SIZE; offset += 504)
      for (unsigned k = 0; k < 3; ++k) {
        const char* const code[] = {landed_call, landed_trap, landed_int80};
        const struct regs r = {.rsp = at[i] + offset, .rip = (uint64_t)code[k]};
        CHECK(jump(&r) != 0);
      }
}
static void signal_stack(void) { CHECK(attempt(use_signal_stack, 0) == 0); }

// Where the processor has no keys it is an illegal instruction.
static void deny_key(void) {
  static uint64_t stack[64];
  const struct regs r = {.rax = 3, .rsp = (uint64_t)&stack[32], .rip = (uint64_t)landed_wrpkru};
  shared->found[0] = (uint64_t)jump(&r);
}
static void key(void) { (void)attempt(deny_key, 0); }

static void far_jump(void) {
  // Code below 4 GiB: int 0x80 and ud2, for 32-bit as for 64-bit.
  unsigned char* low = mmap((void*)0x10000000, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  CHECK(low != MAP_FAILED);
  memcpy(low, "\xcd\x80\x0f\x0b", 4);                // int 0x80
  memcpy(low + 16, "\x0f\x34\x0f\x0b", 4);           // sysenter
  memcpy(low + 32, "\x0f\x05\x0f\x0b", 4);           // syscall
  memcpy(low + 48, "\x48\x8b\x00\x0f\x0b", 5);       // dec %eax; mov (%eax), %eax; ud2
  CHECK(mprotect(low, kPage, PROT_READ | PROT_EXEC) == 0);
  for (unsigned at = 0; at < 64; at += 16)
    for (uint64_t number = 0; number < 400; number += number < 20 ? 1 : 37) {
      static uint64_t stack[64];
      stack[32] = (uint64_t)low + at, stack[33] = 0x23;
      const struct regs r = {.rax = number, .rbx = 3, .rsp = (uint64_t)&stack[32], .rip = (uint64_t)landed_lret};
      CHECK(jump(&r) != 0);
    }
}
static void far32(void) { (void)attempt(far_jump, 0); }

// --- what comes after ---

// Keeps mappings of all that it can write, where nobody looks for them. How many.
static unsigned keep_mappings(void) {
  unsigned kept = 0;
  for (uint64_t n = 0; n < kDescriptors; ++n) {
    const uint64_t at = (uint64_t)WINDOW + kept * (uint64_t)kWindow;
    if (stub_call(SYS_mmap, at, kWindow, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, n, 0) == (long)at) ++kept;
  }
  CHECK(kept > 0);
  return kept;
}
__attribute__((noinline)) static unsigned damage_at(uint64_t at, uint64_t word) {
  volatile unsigned times = 0;
  if (sigsetjmp(back, 1) != 0) return times;  // it is not mapped, or the file ends there
  for (volatile uint64_t* p = (uint64_t*)at; p < (uint64_t*)(at + kWindow); ++p)
    if (*p == word) *p = 0, ++times;
  return times;
}
// In what it kept, or can map by now, a word that stands for the secret is changed. How often.
static unsigned damage(unsigned kept, uint64_t word) {
  unsigned times = 0;
  for (unsigned k = 0; k < kept + kDescriptors; ++k) {
    uint64_t at = (uint64_t)WINDOW + k * (uint64_t)kWindow;
    if (k >= kept) {
      at = (uint64_t)WINDOW + kept * (uint64_t)kWindow;
      if (stub_call(SYS_mmap, at, kWindow, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, k - kept, 0) != (long)at) continue;
    }
    times += damage_at(at, word);
  }
  return times;
}
static void fork_when_taken_over(void) {
  const uint64_t word = secret(1000);
  volatile uint64_t* mine = (uint64_t*)(own + kPrivate);
  *mine = word;
  const unsigned kept = keep_mappings();
  shared->progress = 0;
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    while (shared->progress == 0) sched_yield();
    shared->found[1] = *mine == word ? 1 : 2;
    _exit(0);
  }
  shared->found[0] = damage(kept, word);
  shared->progress = 1;
  CHECK(waitpid(child, NULL, 0) == child);
}
static void before_fork(void) {
  (void)attempt(fork_when_taken_over, 0);
  CHECK(shared->found[1] == 1);
}

static void exec_when_taken_over(void) {
  for (unsigned i = 0; i < kSecretWords; ++i) ((volatile uint64_t*)(own + kPrivate))[i] = secret(i);
  (void)keep_mappings();
  execl("/proc/self/exe", "attack", "after_exec", argument, NULL);
  CHECK(!"it runs itself");
}
static void before_exec(void) { CHECK(attempt(exec_when_taken_over, 0) == 0); }
// What exec_when_taken_over() runs.
static int after_exec(void) {
  take_over();
  if (sigsetjmp(back, 1) == 0) {
    (void)*(volatile unsigned char*)WINDOW;
    CHECK(!"nothing is mapped there any more");
  }
  for (uint64_t n = 0; n < kDescriptors; ++n) {
    if (stub_call(SYS_mmap, (uint64_t)WINDOW, kWindow, PROT_READ, MAP_SHARED | MAP_FIXED, n, 0) != (long)WINDOW) continue;
    CHECK(secrets_in_window() == 0);
  }
  return 0;
}

// Whoever looks from outside removes this file, when it has looked.
static void meet(const char* name) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", argument, name);
  const int fd = open(path, O_CREAT | O_WRONLY, 0600);
  CHECK(fd >= 0 && close(fd) == 0);
  while (access(path, F_OK) == 0) usleep(10000);
}

static void nothing(void) {}
static void simple_calls(void) { CHECK(attempt(make_calls, 0) == 0); }
static void open_canary(void) {
  char path[4096];
  snprintf(path, sizeof path, "%s/../canary", argument);
  argument = path;
  open_file();
}
static void files(void) { CHECK(attempt(open_canary, 0) == 0); }

int main(int argc, char** argv) {
  static const struct {
    const char* name;
    void (*run)(void);
  } cases[] = {{"calls", simple_calls}, {"files", files}, {"jumps", jumps}, {"frames", frames}, {"never_answers", never_answers},
               {"contexts", contexts}, {"hidden_answers", hidden_answers}, {"descriptors", descriptors}, {"full_of_mappings", full_of_mappings},
               {"full_of_descriptors", full_of_descriptors}, {"ends", ends}, {"stops", stops}, {"signal_stack", signal_stack}, {"key", key},
               {"far32", far32}, {"before_fork", before_fork}, {"before_exec", before_exec}};
  CHECK(argc >= 3);  // a case and a directory
  argument = argv[2];
  if (argc > 3) step = (unsigned)atoi(argv[3]);
  if (strcmp(argv[1], "after_exec") == 0) return after_exec();
  shared = mmap(NULL, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  inherited = malloc(kInherited);
  own = malloc(kPrivate + kPage);
  own += -(uint64_t)own % 8;
  CHECK(shared != MAP_FAILED && inherited && own);
  fill(inherited, kInherited, 1);
  const pid_t bystander = start_bystander();
  fill(own, kPrivate, 2);
  // As warm as it gets.
  for (int i = 0; i < 3; ++i) (void)attempt(nothing, 0);
  attempts = ended = 0;
  meet("before");
  for (unsigned i = 0; i < sizeof cases / sizeof *cases; ++i)
    if (strcmp(cases[i].name, argv[1]) == 0) cases[i].run();
  CHECK(attempts > 0);
  look();
  meet("after");
  shared->stop = 1;
  int status;
  CHECK(waitpid(bystander, &status, 0) == bystander && status == 0);
  printf("%s: %u attempts, %u ended, %u by signals, %u broken; %u tried, found", argv[1], attempts, ended, signalled, broken, shared->progress);
  for (unsigned i = 0; i < 4; ++i) printf(" %lu", (unsigned long)shared->found[i]);
  printf("\nthe others: unchanged\n");
  return 0;
}
