// Attackers that jump: to every byte of the stub, and onto stacks, keys and code that only a guest out of its mind would use.
#define _GNU_SOURCE
#include "attack_cases.h"

#include <sys/syscall.h>

enum { kSets = 18 };  // of registers

// Beside others, each of which takes the next jump that none has made.
static void jump_everywhere(void) {
  const unsigned context = own_context();
  static unsigned char copy[kPage];
  memcpy(copy, STUB, kPage);
  unsigned char* fake = mmap(NULL, 4 * RAMET_SAID_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  fake = (unsigned char*)(((uint64_t)fake + RAMET_SAID_SIZE - 1) & -(uint64_t)RAMET_SAID_SIZE);
  const uint64_t numbers[] = {SYS_mmap, SYS_mprotect, SYS_rt_sigreturn, SYS_futex, SYS_clone, SYS_exit_group};
  const uint64_t said[] = {(uint64_t)SAID(context), RAMET_SAID, (uint64_t)fake};
  const uint64_t told[] = {(uint64_t)TOLD(context), RAMET_TOLD, (uint64_t)fake + RAMET_SAID_SIZE};
  for (unsigned n; (n = __atomic_fetch_add(&shared->progress, 1, __ATOMIC_RELAXED)) < kPage * kSets;) {
    const unsigned at = n / kSets, set = n % kSets;
    if (at % step != 0) continue;
    // Behind the code the page is empty: one of these is as good as all.
    if (at >= 16 && memcmp(copy + at - 16, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 17) == 0 && at != kPage - 1) continue;
    // Served as the guest's own it would end the attacker.
    const uint64_t number = numbers[set / 3] == SYS_exit_group && at % 5 ? SYS_munmap : numbers[set / 3];
    const struct regs r = {.number = number, .a = {RAMET_STUB_TEXT, kPage, 7, MAP_SHARED | MAP_FIXED, 3, 0}, .said = said[set % 3], .told = told[set % 3],
                           .list = WORD(told[set % 3] + TOLD_GO), .command = set, .frame = (uint64_t)fake, .sp = said[set % 3] + RAMET_FIRST_STACK,
                           .pc = RAMET_STUB_TEXT + at};
    // It may wait there for ever.
    ualarm(20000, 20000);
    const int signal = jump(&r);
    ualarm(0, 0);
    __atomic_fetch_add(&shared->found[signal == SIGALRM], 1, __ATOMIC_RELAXED);
    CHECK(memcmp(copy, STUB, kPage) == 0);
  }
}

static int jumps_left(void) { return shared->progress < kPage * kSets; }
void jumps(void) {
  any_status = 1;
  attempt_all(jumps_left, jump_everywhere, 5);
  CHECK(shared->found[0] > 0);
}

static void use_signal_stack(void) {
  const uint64_t at[] = {(uint64_t)SAID(own_context()), RAMET_SAID, RAMET_SAID + 5 * RAMET_SAID_SIZE, RAMET_TOLD};
  for (unsigned i = 0; i < 4; ++i)
    for (unsigned offset = 0; offset < RAMET_SAID_SIZE; offset += 504)
      for (unsigned k = 0; k < isa_landed_count; ++k) {
        const struct regs r = {.sp = (at[i] + offset) & -16ull, .pc = (uint64_t)isa_landed[k]};
        CHECK(jump(&r) != 0);
      }
}
void signal_stack(void) { CHECK(attempt(use_signal_stack, 0) == 0); }
