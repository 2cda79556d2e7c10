// What attacks on the process machine need of x86-64. arm64/attack_isa.c is the twin.
#define _GNU_SOURCE
#include "attack_cases.h"

#include <sys/syscall.h>

uint64_t jump_target;
extern char landed_int80[], landed_lret[], landed_wrpkru[];
__asm__(R"(
	.globl enter, landed_call, landed_loop, landed_trap
enter:	mov	104(%rdi), %rax
	mov	%rax, jump_target(%rip)
	mov	(%rdi), %rax
	mov	56(%rdi), %rbx
	mov	64(%rdi), %r13
	mov	72(%rdi), %r15
	mov	80(%rdi), %r12
	mov	88(%rdi), %rbp
	mov	%rbp, %r14
	mov	96(%rdi), %rsp
	mov	16(%rdi), %rsi
	mov	24(%rdi), %rdx
	mov	32(%rdi), %r10
	mov	40(%rdi), %r8
	mov	48(%rdi), %r9
	mov	8(%rdi), %rdi
	mov	$3, %ecx
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

	.globl isa_stub_call, isa_stub_call_end, isa_stub_return, isa_stub_return_end, isa_stub_fails, isa_stub_fails_end
isa_stub_call:
	syscall
	mov	%rsp, %rcx
isa_stub_call_end:
isa_stub_return:
	syscall
	ud2
isa_stub_return_end:
isa_stub_fails:
	mov	$231, %eax
	mov	$3, %edi
isa_stub_fails_end:
)");

char* const isa_landed[] = {landed_call, landed_trap, landed_int80};
const unsigned isa_landed_count = sizeof isa_landed / sizeof *isa_landed;

const struct call isa_calls[] = {
    {"arch_prctl(ARCH_SET_GS)", SYS_arch_prctl, {0x1001, 0x1234}, 1},
    {"arch_prctl(ARCH_SET_CPUID)", SYS_arch_prctl, {0x1012, 1}, 0},
    {"open", SYS_open, {0, 0, 0}, 0},
    {"x32's getpid", SYS_getpid | 0x40000000, {0}, 0},
};
const unsigned isa_call_count = sizeof isa_calls / sizeof *isa_calls;

// --- frames ---

const size_t isa_frame_bytes = 304;
static _Alignas(64) unsigned char state[2 * kPage];

void isa_set_pc(ucontext_t* uc, uint64_t pc) { uc->uc_mcontext.gregs[REG_RIP] = (greg_t)pc; }
uint64_t isa_frame_at(const struct forged* frame) { return (uint64_t)&frame->uc; }

static void point_at_copy(ucontext_t* uc) {
  if (uc->uc_mcontext.fpregs) memcpy(state, uc->uc_mcontext.fpregs, 512 + 64);
  uc->uc_mcontext.fpregs = (fpregset_t)(void*)state;
  uc->uc_flags |= 1;  // UC_FP_XSTATE
}

int isa_damage(struct forged* frame, unsigned which) {
  ucontext_t* uc = &frame->uc;
  greg_t* g = uc->uc_mcontext.gregs;
  switch (which) {
    case 0: memset(&uc->uc_sigmask, 0xff, 8), isa_set_pc(uc, (uint64_t)landed_int80); break;
    case 1: point_at_copy(uc), memset(state + 512, 0xff, 64); break;  // header of XSAVE
    case 2: point_at_copy(uc), memset(state + 464, 0xff, 48); break;  // what the kernel says of the area
    case 3: point_at_copy(uc), memset(state + 24, 0xff, 8); break;    // MXCSR
    case 4: uc->uc_mcontext.fpregs = (fpregset_t)0x8000000000000000u; break;
    case 5: uc->uc_mcontext.fpregs = (fpregset_t)(RAMET_TOLD + 64); break;
    case 6: g[REG_RSP] = (greg_t)0x8000000000000000u, isa_set_pc(uc, (uint64_t)landed_call); break;
    case 7: g[REG_CSGSFS] = (greg_t)0x002b000000000023; break;        // 32-bit code
    case 8: g[REG_CSGSFS] = 0x0010; break;                            // the kernel's
    case 9: g[REG_CSGSFS] = (greg_t)0xfff3fff3fff3fff3u; break;
    case 10: g[REG_EFL] = -1, isa_set_pc(uc, (uint64_t)landed_call); break;
    default: return 0;
  }
  return 1;
}

// --- keys, and code of 32 bits ---

// Where the processor has no keys it is an illegal instruction.
static void deny_key(void) {
  static uint64_t stack[64];
  const struct regs r = {.number = 3, .sp = (uint64_t)&stack[32], .pc = (uint64_t)landed_wrpkru};
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
      const struct regs r = {.number = number, .said = 3, .sp = (uint64_t)&stack[32], .pc = (uint64_t)landed_lret};
      CHECK(jump(&r) != 0);
    }
}
static void far32(void) { (void)attempt(far_jump, 0); }

void isa_case(const char* name) {
  if (strcmp(name, "key") == 0) key();
  if (strcmp(name, "far32") == 0) far32();
}
