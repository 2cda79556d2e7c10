// The vector registers, and what controls floating-point arithmetic, survive signals, system calls and page faults. A
// handler finds them as they are: Linux gives it no state of its own.
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#include "check.h"

static volatile sig_atomic_t count;
static volatile sig_atomic_t checking;
static const uint64_t kControl = 0x1c00000;  // FPCR: round towards zero, flush to zero

static void spoil(int signal) {
  (void)signal;
  uint64_t control;
  __asm__ volatile("mrs %0, fpcr" : "=r"(control));
  CHECK(!checking || control == kControl);
  __asm__ volatile(
      "movi v0.2d, #0\n\tmovi v7.2d, #0\n\tmovi v15.2d, #0\n\tmovi v31.2d, #0\n\tmsr fpcr, xzr\n\tmsr fpsr, xzr" ::
          : "v0", "v7", "v15", "v31");
  ++count;
}

static void vectors(char* page) {
  uint64_t in[6] = {0x1122334455667788, 0x99aabbccddeeff00, 0x0123456789abcdef, 0xfedcba9876543210, 0x5555, ~0x5555ull}, out[6] = {0};
  uint64_t control = 0, status = 0;
  __asm__ volatile(
      "msr fpcr, %[set]\n\tmov x9, #0x1f\n\tmsr fpsr, x9\n\t"
      "ldr q7, [%[in]]\n\tldr q15, [%[in], #16]\n\tldr q31, [%[in], #32]\n\t"
      "mov w9, #1\n\tstr w9, [%[checking]]\n"
      "1:\tldr w9, [%[count]]\n\tcmp w9, #10\n\tb.lt 1b\n\t"      // ten timer signals come here
      "strb w9, [%[page]]\n\t"                                    // a page fault
      "mov x8, #172\n\tsvc #0\n\t"                                // getpid
      "str q7, [%[out]]\n\tstr q15, [%[out], #16]\n\tstr q31, [%[out], #32]\n\t"
      "mrs %[control], fpcr\n\tmrs %[status], fpsr\n\tstr wzr, [%[checking]]\n\tmsr fpcr, xzr"
      : [control] "=&r"(control), [status] "=&r"(status)
      : [set] "r"(kControl), [in] "r"(in), [out] "r"(out), [count] "r"(&count), [checking] "r"(&checking), [page] "r"(page)
      : "x0", "x8", "x9", "cc", "v7", "v15", "v31", "memory");
  CHECK(memcmp(in, out, sizeof in) == 0);
  CHECK(control == kControl);
  CHECK((status & 0x1f) == 0x1f);
  puts("vector registers and their control kept");
}

int main(void) {
  struct sigaction action = {.sa_handler = spoil, .sa_flags = SA_RESTART};
  CHECK(sigaction(SIGALRM, &action, NULL) == 0);
  struct itimerval every = {.it_interval = {.tv_usec = 2000}, .it_value = {.tv_usec = 2000}}, off = {0};
  CHECK(setitimer(ITIMER_REAL, &every, NULL) == 0);
  char* page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(page != MAP_FAILED);
  double x = 1.0 / 3.0;
  long double y = 2.0L / 3.0L;
  vectors(page);
  CHECK(setitimer(ITIMER_REAL, &off, NULL) == 0);
  CHECK(x == 1.0 / 3.0 && y == 2.0L / 3.0L);
  return 0;
}
