// SSE and, where the processor offers it, AVX registers survive signals, system calls and page faults,
// and a handler starts with a control word of its own.
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#include "check.h"

static volatile sig_atomic_t count;

static void spoil(int signal) {
  (void)signal;
  uint32_t mxcsr = 0;
  __asm__ volatile("stmxcsr %0" : "=m"(mxcsr));
  CHECK(mxcsr == 0x1f80);
  __asm__ volatile("pxor %%xmm0, %%xmm0\n\tpxor %%xmm7, %%xmm7\n\tpxor %%xmm15, %%xmm15\n\tfninit\n\tfldz" ::
                       : "xmm0", "xmm7", "xmm15");
  ++count;
}

static int has_avx(void) {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_AVX)) return 0;
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & 6) == 6;
}

static void sse(char* page) {
  uint64_t in[4] = {0x1122334455667788, 0x99aabbccddeeff00, 0x0123456789abcdef, 0xfedcba9876543210}, out[4] = {0};
  uint32_t mxcsr = 0x9fc0, after = 0;  // flush to zero, denormals are zero
  __asm__ volatile(
      "ldmxcsr %[mxcsr]\n\tmovdqu (%[in]), %%xmm7\n\tmovdqu 16(%[in]), %%xmm15\n"
      "1:\tcmpl $10, %[count]\n\tjl 1b\n\t"                       // ten timer signals come here
      "movb $1, (%[page])\n\t"                                    // a page fault
      "movl $39, %%eax\n\tsyscall\n\t"                            // getpid
      "movdqu %%xmm7, (%[out])\n\tmovdqu %%xmm15, 16(%[out])\n\tstmxcsr %[after]"
      : [after] "=m"(after)
      : [mxcsr] "m"(mxcsr), [in] "r"(in), [out] "r"(out), [count] "m"(count), [page] "r"(page)
      : "rax", "rcx", "r11", "xmm7", "xmm15", "memory");
  CHECK(memcmp(in, out, sizeof in) == 0);
  CHECK(after == mxcsr);
  uint32_t usual = 0x1f80;
  __asm__ volatile("ldmxcsr %0" ::"m"(usual));
  puts("vector registers and their control kept");
}

__attribute__((target("avx"))) static void avx(char* page) {
  uint64_t in[8], out[8] = {0};
  for (int i = 0; i < 8; ++i) in[i] = 0x0101010101010101u * (uint64_t)(i + 1) + (uint64_t)i;
  int goal = count + 10;
  __asm__ volatile(
      "vmovdqu (%[in]), %%ymm7\n\tvmovdqu 32(%[in]), %%ymm15\n"
      "1:\tcmpl %[goal], %[count]\n\tjl 1b\n\t"
      "movb $1, (%[page])\n\t"
      "movl $39, %%eax\n\tsyscall\n\t"
      "vmovdqu %%ymm7, (%[out])\n\tvmovdqu %%ymm15, 32(%[out])\n\tvzeroupper"
      :
      : [in] "r"(in), [out] "r"(out), [count] "m"(count), [goal] "r"(goal), [page] "r"(page)
      : "rax", "rcx", "r11", "xmm7", "xmm15", "memory");
  CHECK(memcmp(in, out, sizeof in) == 0);
}

int main(void) {
  struct sigaction action = {.sa_handler = spoil, .sa_flags = SA_RESTART};
  CHECK(sigaction(SIGALRM, &action, NULL) == 0);
  struct itimerval every = {.it_interval = {.tv_usec = 2000}, .it_value = {.tv_usec = 2000}}, off = {0};
  CHECK(setitimer(ITIMER_REAL, &every, NULL) == 0);
  char* pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(pages != MAP_FAILED);
  double x = 1.0 / 3.0;
  long double y = 2.0L / 3.0L;
  sse(pages);
  if (has_avx()) avx(pages + 4096);
  CHECK(setitimer(ITIMER_REAL, &off, NULL) == 0);
  CHECK(x == 1.0 / 3.0 && y == 2.0L / 3.0L);
  fprintf(stderr, "AVX: %s\n", has_avx() ? "checked" : "not offered");  // differs between guest and host
  return 0;
}
