// The stub, used by a guest that found it. See attack.h.
#define _GNU_SOURCE
#include "attack.h"

#include <sys/syscall.h>

sigjmp_buf back;
uint64_t jump_target;
static _Alignas(RAMET_SAID_SIZE) unsigned char fake_said[RAMET_SAID_SIZE];
static unsigned char handler_stack[64 << 10];
static unsigned traps;

void enter(const struct regs*);
__asm__(R"(
	.globl enter, landed_call, landed_loop, landed_trap, landed_int80, landed_lret, landed_wrpkru
enter:	mov	(%rdi), %rax
	mov	8(%rdi), %rbx
	mov	16(%rdi), %rcx
	mov	24(%rdi), %rdx
	mov	32(%rdi), %rsi
	mov	48(%rdi), %rbp
	mov	56(%rdi), %rsp
	mov	64(%rdi), %r8
	mov	72(%rdi), %r9
	mov	80(%rdi), %r10
	mov	88(%rdi), %r11
	mov	96(%rdi), %r12
	mov	104(%rdi), %r13
	mov	112(%rdi), %r14
	mov	120(%rdi), %r15
	mov	40(%rdi), %rdi
	jmp	*jump_target(%rip)
landed_call: mov $39, %eax
	syscall
landed_trap: ud2
landed_loop: jmp landed_loop
landed_int80: mov $20, %eax
	int	$0x80
	ud2
landed_lret: lretq
landed_wrpkru: wrpkru
	jmp	landed_call
)");

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
  jump_target = r->rip;
  const int signal = sigsetjmp(back, 1);
  if (signal == 0) enter(r);
  return signal;
}

static uint64_t find(const unsigned char* code, size_t bytes) {
  for (unsigned i = 0; i + bytes <= kPage; ++i)
    if (memcmp(STUB + i, code, bytes) == 0) return RAMET_STUB_TEXT + i;
  CHECK(!"the stub's code is as it was");
  return 0;
}

uint64_t stub_call_at(void) { return find((const unsigned char*)"\x0f\x05\x48\x89\xe1", 5); }    // syscall; mov %rsp, %rcx
uint64_t stub_return_at(void) { return find((const unsigned char*)"\x0f\x05\x0f\x0b", 4); }       // syscall; ud2

// The stub goes on with the next command of a list that is nowhere.
long stub_call_with(long number, const uint64_t a[6]) {
  struct regs r = {.rax = (uint64_t)number, .rdi = a[0], .rsi = a[1], .rdx = a[2], .r10 = a[3], .r8 = a[4], .r9 = a[5],
                   .rbx = (uint64_t)fake_said, .rsp = (uint64_t)fake_said + 8, .r13 = 8, .rip = stub_call_at()};
  const unsigned context = own_context();
  const uint32_t before = WORD(TOLD(context) + TOLD_GO);
  jump(&r);
  traps = WORD(TOLD(context) + TOLD_GO) - before;
  return *(volatile int64_t*)(fake_said + SAID_RESULTS);
}

unsigned stub_traps(void) { return traps; }

void stub_list(unsigned char* commands) {
  WORD(commands + TOLD_COUNT) = ~0u;
  struct regs r = {.rax = SYS_getpid, .rbx = (uint64_t)fake_said, .rsp = (uint64_t)fake_said + 8, .r13 = (uint64_t)commands,
                   .rip = stub_call_at()};
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

void forge(ucontext_t* frame) {
  const unsigned context = own_context();
  syscall(SYS_getpid);
  enum { kKernels = 304 };  // bytes of the kernel's ucontext
  memcpy(frame, *(void* volatile*)(SAID(context) + SAID_FRAME), kKernels);
  frame->uc_mcontext.gregs[REG_RIP] = (greg_t)landed_trap;
  memset(&frame->uc_sigmask, 0, 8);
  frame->uc_stack.ss_sp = (void*)(SAID(context) + RAMET_SIGNAL_STACK);
  frame->uc_stack.ss_flags = (int)(1u << 31);
  frame->uc_stack.ss_size = RAMET_SAID_SIZE - RAMET_SIGNAL_STACK;
}

int use_frame(const ucontext_t* frame) {
  const struct regs r = {.rax = SYS_rt_sigreturn, .rsp = (uint64_t)frame, .rip = stub_return_at()};
  return jump(&r);
}
