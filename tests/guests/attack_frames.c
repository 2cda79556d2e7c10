// Attackers that forge the frame from which rt_sigreturn goes on, and those that do not hear any more because of one.
#define _GNU_SOURCE
#include "attack_cases.h"

#include <sys/wait.h>

static unsigned which, frames_begun;
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
  __atomic_fetch_add(&shared->found[use_frame(&frame) == SIGILL], 1, __ATOMIC_RELAXED);
}

static int next_frame(void) {
  which = frames_begun++;
  return which < kFrames;
}
void frames(void) { attempt_all(next_frame, forge_frame, 1); }

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
// It hands over to the VMM what is no answer, until somebody listens, and again.
static void hand_over(void) {
  for (;; ++shared->progress) (void)stub_call(RAMET_HAND_OVER, 0);
}
void never_answers(void) {
  CHECK(WIFSIGNALED(attempt(hand_over, 1)));
  CHECK(WIFSIGNALED(attempt(silent, 1)));
  CHECK(WIFSIGNALED(attempt(deaf, 1)));
}
