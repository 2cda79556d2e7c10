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

// Where nothing of the guest's is, in all of its processes.
#define NOWHERE (RAMET_USER_END / 16 * 13 & -0x200000ull)

// Registers to jump with, by what the stub has in them: a call and its arguments, what its thread says and is told, its list, the
// command in hand, the frame of its trap.
struct regs {
  uint64_t number, a[6], said, told, list, command, frame, sp, pc;
};
// A frame for rt_sigreturn, where the kernel finds the one before it.
struct forged {
  _Alignas(64) unsigned char before[128];
  ucontext_t uc;
};

// Makes the program ready: handlers that bring every fault back to jump(), and where the stub makes its calls.
void take_over(void);
extern sigjmp_buf back;  // where every fault goes on
// Goes there. The signal that brought it back: that of a fault, or SIGALRM.
int jump(const struct regs*);
// Where the stub has the call of a command, and rt_sigreturn.
uint64_t stub_call_at(void), stub_return_at(void);
// And where a process that could not begin ends.
uint64_t stub_fails_at(void);
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
// It goes on at `landed_trap`, with what the kernel wrote into this thread's last one.
void forge(struct forged*);
// rt_sigreturn with that frame. What jump() returns.
int use_frame(const struct forged*);
// The code that a forged frame lands in: a call and then an illegal instruction, and that alone; a loop.
extern char landed_call[], landed_trap[], landed_loop[];

// --- x86_64/attack_isa.c, arm64/attack_isa.c ---

// Loads them all, and goes there.
void enter(const struct regs*);
// Parts of the stub, to be found: the call of a command, rt_sigreturn, where a process that could not begin ends.
extern const unsigned char isa_stub_call[], isa_stub_call_end[], isa_stub_return[], isa_stub_return_end[], isa_stub_fails[], isa_stub_fails_end[];
// More code to land in.
extern char* const isa_landed[];
extern const unsigned isa_landed_count;
// The kernel's ucontext, bytes.
extern const size_t isa_frame_bytes;
void isa_set_pc(ucontext_t*, uint64_t);
// Damage to a frame that only this instruction set has, by number; it may go on anywhere. 0: there are no more.
int isa_damage(struct forged*, unsigned which);
// Where rt_sigreturn wants the stack pointer.
uint64_t isa_frame_at(const struct forged*);
// Calls that only this instruction set has, and whether the stub's page may make them upon its own.
struct call {
  const char* what;
  long number;
  uint64_t a[6];
  int allowed;
};
extern const struct call isa_calls[];
extern const unsigned isa_call_count;
