// Attackers that forge the frame from which rt_sigreturn goes on, and those that do not hear any more because of one.
#define _GNU_SOURCE
#include "attack_cases.h"

#include <sys/wait.h>

static unsigned which, frames_begun;
static struct forged frame;
static unsigned char other_stack[RAMET_SAID_SIZE];

static void set_stack(uint64_t at) {
  frame.uc.uc_stack.ss_sp = (void*)at;
  isa_set_pc(&frame.uc, (uint64_t)landed_call);
}

enum { kFrames = 11 };  // of all instruction sets
static void forge_frame(void) {
  forge(&frame);
  switch (which) {
    case 0: memset(&frame.uc.uc_sigmask, 0xff, 8), isa_set_pc(&frame.uc, (uint64_t)landed_call); break;
    case 1: set_stack((uint64_t)other_stack); break;
    case 2: set_stack(RAMET_SAID + RAMET_SIGNAL_STACK); break;                        // the mapper's
    case 3: set_stack(RAMET_SAID + 5 * RAMET_SAID_SIZE + RAMET_SIGNAL_STACK); break;  // of a thread that there is not
    case 4: set_stack((uint64_t)SAID(own_context())); break;                          // over what is said
    case 5: set_stack(RAMET_TOLD); break;                                             // which it can only read
    case 6: set_stack(~0ull << 12); break;
    case 7: frame.uc.uc_stack.ss_flags = SS_DISABLE, isa_set_pc(&frame.uc, (uint64_t)landed_call); break;
    case 8: frame.uc.uc_stack.ss_size = 64, isa_set_pc(&frame.uc, (uint64_t)landed_call); break;
    case 9: isa_set_pc(&frame.uc, 0x8000000000000000u); break;
    case 10: isa_set_pc(&frame.uc, 0xffffffffff600000u); break;
    default: CHECK(isa_damage(&frame, which - kFrames)); break;
  }
  __atomic_fetch_add(&shared->found[use_frame(&frame) == SIGILL], 1, __ATOMIC_RELAXED);
}

static int next_frame(void) {
  static struct forged unused;
  which = frames_begun++;
  return which < kFrames || isa_damage(&unused, which - kFrames);
}
void frames(void) { attempt_all(next_frame, forge_frame, 1); }

// Its handler runs on memory of its own, with a told page of its own: nobody hears of its traps.
static void deaf(void) {
  forge(&frame);
  const uint64_t told = RAMET_TOLD - (1ull << 32), said = RAMET_SAID - 4 * (RAMET_TOLD - told);
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
  memset(&frame.uc.uc_sigmask, 0xff, 8);
  isa_set_pc(&frame.uc, (uint64_t)landed_loop);
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
