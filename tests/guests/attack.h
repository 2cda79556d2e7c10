// For attack*.c: what a guest of the process machine can reach of the code and the pages that lie in its process besides it.
#pragma once

#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "arch/process_layout.h"
#include "check.h"

enum { kPage = 4096 };
#define STUB ((const unsigned char*)RAMET_STUB_TEXT)
#define TOLD(context) ((volatile unsigned char*)RAMET_TOLD + (uint64_t)(context) * RAMET_TOLD_SIZE)
#define SAID(context) ((volatile unsigned char*)RAMET_SAID + (uint64_t)(context) * RAMET_SAID_SIZE)
#define WORD(at) (*(volatile uint32_t*)(at))

// Registers to jump with; rip last, the order is that of `enter` in attack_stub.c.
struct regs {
  uint64_t rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15, rip;
};

// Makes the program ready: handlers that bring every fault back to jump(), and where the stub makes its calls.
void take_over(void);
extern sigjmp_buf back;  // where every fault goes on
// Goes there. The signal that brought it back: that of a fault, or SIGALRM.
int jump(const struct regs*);
// Where the stub has the call of a command, and rt_sigreturn.
uint64_t stub_call_at(void), stub_return_at(void);
// Makes a call from the stub's page. If the filter refuses it, the VMM serves it as the guest's own.
#define stub_call(number, ...) stub_call_with(number, (const uint64_t[6]){__VA_ARGS__})
long stub_call_with(long number, const uint64_t arguments[6]);
// How many traps the last stub call took: one of the fault behind it, and another if the filter refused it.
unsigned stub_traps(void);
// Makes that many calls in one go, from `commands` of 64 bytes, of which the first TOLD_COMMANDS are not used and
// behind which nothing is mapped.
void stub_list(unsigned char* commands);
// This thread's context. Other threads are quiet.
unsigned own_context(void);
// A frame for rt_sigreturn that goes on at `landed_trap`, with what the kernel wrote into this thread's last one.
void forge(ucontext_t*);
// rt_sigreturn with that frame. What jump() returns.
int use_frame(const ucontext_t*);
// The code that a forged frame lands in: a call and then an illegal instruction; a loop; a call by int 0x80;
// a far return; WRPKRU of what is in eax, then a call.
extern char landed_call[], landed_loop[], landed_trap[], landed_int80[], landed_lret[], landed_wrpkru[];
