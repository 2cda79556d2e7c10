// The stub, used by a guest that found it. See attack.h.
#define _GNU_SOURCE
#include "attack.h"

#include <sys/syscall.h>

sigjmp_buf back;
static _Alignas(RAMET_SAID_SIZE) unsigned char fake_said[RAMET_SAID_SIZE];
static unsigned char handler_stack[64 << 10];
static unsigned traps;

static void came_back(int signal) { siglongjmp(back, signal); }

void take_over(void) {
  const stack_t stack = {.ss_sp = handler_stack, .ss_size = sizeof handler_stack};
  CHECK(sigaltstack(&stack, NULL) == 0);
  const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE, SIGALRM};
  for (unsigned i = 0; i < sizeof signals / sizeof *signals; ++i) {
    struct sigaction action = {.sa_handler = came_back, .sa_flags = SA_ONSTACK | SA_NODEFER};
    CHECK(sigaction(signals[i], &action, NULL) == 0);
  }
}

int jump(const struct regs* r) {
  const int signal = sigsetjmp(back, 1);
  if (signal == 0) enter(r);
  return signal;
}

static uint64_t find(const unsigned char* code, const unsigned char* end) {
  const size_t bytes = (size_t)(end - code);
  for (unsigned i = 0; i + bytes <= kPage; ++i)
    if (memcmp(STUB + i, code, bytes) == 0) return RAMET_STUB_TEXT + i;
  CHECK(!"the stub's code is as it was");
  return 0;
}

uint64_t stub_call_at(void) { return find(isa_stub_call, isa_stub_call_end); }
uint64_t stub_return_at(void) { return find(isa_stub_return, isa_stub_return_end); }
uint64_t stub_fails_at(void) { return find(isa_stub_fails, isa_stub_fails_end); }

// The stub goes on with the next command of a list that is nowhere.
long stub_call_with(long number, const uint64_t a[6]) {
  struct regs r = {.number = (uint64_t)number, .said = (uint64_t)fake_said, .sp = (uint64_t)fake_said + RAMET_FIRST_STACK, .told = 8, .pc = stub_call_at()};
  memcpy(r.a, a, sizeof r.a);
  const unsigned context = own_context();
  const uint32_t before = WORD(TOLD(context) + TOLD_GO);
  jump(&r);
  traps = WORD(TOLD(context) + TOLD_GO) - before;
  return *(volatile int64_t*)(fake_said + SAID_RESULTS);
}

unsigned stub_traps(void) { return traps; }

void stub_list(unsigned char* commands) {
  WORD(commands + TOLD_COUNT) = ~0u;
  struct regs r = {.number = SYS_getpid, .said = (uint64_t)fake_said, .sp = (uint64_t)fake_said + RAMET_FIRST_STACK, .told = (uint64_t)commands,
                   .pc = stub_call_at()};
  jump(&r);
}

unsigned own_context(void) {
  static unsigned known;
  static pid_t of;
  const pid_t self = (pid_t)syscall(SYS_getpid);
  if (of == self) return known;
  enum { kLooked = 64 };
  for (;;) {
    uint32_t before[kLooked];
    for (unsigned i = 1; i < kLooked; ++i) before[i] = WORD(TOLD(i) + TOLD_GO);
    syscall(SYS_getpid);
    unsigned found = 0, changed = 0;
    for (unsigned i = 1; i < kLooked; ++i)
      if (WORD(TOLD(i) + TOLD_GO) != before[i]) found = i, ++changed;
    if (changed != 1) continue;
    known = found;
    of = self;
    return known;
  }
}

void forge(struct forged* frame) {
  const unsigned context = own_context();
  syscall(SYS_getpid);
  memcpy(&frame->uc, *(void* volatile*)(SAID(context) + SAID_FRAME), isa_frame_bytes);
  isa_set_pc(&frame->uc, (uint64_t)landed_trap);
  memset(&frame->uc.uc_sigmask, 0, 8);
  frame->uc.uc_stack.ss_sp = (void*)(SAID(context) + RAMET_SIGNAL_STACK);
  frame->uc.uc_stack.ss_flags = (int)(1u << 31);
  frame->uc.uc_stack.ss_size = RAMET_SAID_SIZE - RAMET_SIGNAL_STACK;
}

int use_frame(const struct forged* frame) {
  const struct regs r = {.number = SYS_rt_sigreturn, .sp = isa_frame_at(frame), .pc = stub_return_at()};
  return jump(&r);
}
