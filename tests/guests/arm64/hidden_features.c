// Features of the processor whose state a guest has no room for: they are not announced, and what their instructions do.
// hidden_features: prints what each does. hidden_features absent: fails unless the processor has none of them.
#define _GNU_SOURCE
#include "check.h"

#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static sigjmp_buf back;
static void on_illegal(int sig) { siglongjmp(back, sig); }

static int sve(void) {
  uint64_t length = 0;
  asm volatile(".inst 0x04bf5020; mov %0, x0" : "=r"(length) : : "x0");  // rdvl x0, #1
  return length >= 16;
}
static int sve_registers(void) {
  uint64_t sum;
  // mov z31.d, x0; add z31.d, z31.d, z31.d; umov x0, v31.d[0]
  asm volatile("mov x0, #21; .inst 0x05e0381f; .inst 0x04ff03ff; umov %0, v31.d[0]" : "=r"(sum) : : "x0", "v31");
  return sum == 42;
}
// What every processor has of the registers outlives a handler and the call that it came with.
static volatile int handled;
static void on_signal(int sig) {
  handled = sig;
  asm volatile("movi v31.16b, #0" : : : "v31");
}
static int sve_in_handlers(void) {
  const uint64_t self = (uint64_t)getpid();
  register uint64_t number asm("x8") = SYS_kill;
  register uint64_t pid asm("x0") = self;
  register uint64_t sig asm("x1") = SIGUSR1;
  uint64_t kept;
  asm volatile("mov x2, #21; .inst 0x05e0385f; svc #0; umov %1, v31.d[0]"  // mov z31.d, x2
               : "+r"(pid), "=r"(kept)
               : "r"(number), "r"(sig)
               : "x2", "v31", "memory");
  return handled == SIGUSR1 && pid == 0 && kept == 21;
}
static int sme(void) {
  asm volatile(".inst 0xd503477f; .inst 0xd503467f" : : : "memory");  // smstart; smstop
  return 1;
}
static const struct {
  const char* what;
  int (*run)(void);
} kInstructions[] = {{"sve", sve}, {"sve registers", sve_registers}, {"sve and signals", sve_in_handlers}, {"sme", sme}};

// In the space of hints, which every processor has: signed and authenticated, a return address is what it was.
static int signed_address_differs(void) {
  uint64_t before = (uint64_t)&signed_address_differs, between, after;
  asm volatile("mov x17, %2; mov x16, sp; hint #8; mov %0, x17; hint #12; mov %1, x17"  // pacia1716, autia1716
               : "=&r"(between), "=&r"(after)
               : "r"(before)
               : "x16", "x17");
  CHECK(after == before);
  return between != before;
}

int main(int count, char** words) {
  const int absent = count > 1 && strcmp(words[1], "absent") == 0;
  CHECK((getauxval(AT_HWCAP) & (1ul << 22 | 1ul << 30 | 1ul << 31)) == 0);                  // SVE, PACA, PACG
  CHECK((getauxval(AT_HWCAP2) & (0x3ful << 1 | 0xful << 9 | 1ul << 18 | 0x1fful << 22 | 1ul << 33)) == 0);  // SVE2 and its parts, MTE, SME
  CHECK_ERRNO(prctl(PR_SVE_GET_VL, 0, 0, 0, 0), EINVAL);
  CHECK_ERRNO(prctl(PR_SVE_SET_VL, 16, 0, 0, 0), EINVAL);
  CHECK_ERRNO(prctl(PR_PAC_RESET_KEYS, 0, 0, 0, 0), EINVAL);
  CHECK_ERRNO(prctl(PR_SET_TAGGED_ADDR_CTRL, PR_TAGGED_ADDR_ENABLE | PR_MTE_TCF_SYNC, 0, 0, 0), EINVAL);
  void* page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(page != MAP_FAILED);
  CHECK_ERRNO(mprotect(page, 4096, PROT_READ | 0x20), EINVAL);  // PROT_MTE
  const struct sigaction illegal = {.sa_handler = on_illegal}, action = {.sa_handler = on_signal};
  CHECK(sigaction(SIGILL, &illegal, NULL) == 0 && sigaction(SIGUSR1, &action, NULL) == 0);
  for (unsigned i = 0; i < sizeof kInstructions / sizeof kInstructions[0]; ++i) {
    const int refused = sigsetjmp(back, 1) != 0;
    if (!refused) CHECK(kInstructions[i].run());
    printf("%s: %s\n", kInstructions[i].what, refused ? "refused" : "carried out");
    CHECK(refused || !absent);
  }
  const int differs = signed_address_differs();
  printf("pac: %s\n", differs ? "signs" : "no operation");
  CHECK(!differs || !absent);
  return 0;
}
