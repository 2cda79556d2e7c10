// Random instructions that compute, with random registers: instructions SEED COUNT compute|atomic
// Prints for each its word and either a digest of all registers afterwards, and of memory, or "refused". Not among them:
// jumps, system instructions, and loads and stores but for the atomics of ARMv8.1. Flags in FPSR other than QC are left out:
// not all that carry out instructions keep them exactly.
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "check.h"

struct state {
  uint64_t x[28], nzcv, fpcr, fpsr, code;
  uint8_t v[32][16];
  uint64_t memory[64];
};
static struct state state;
_Static_assert(offsetof(struct state, code) == 248 && offsetof(struct state, v) == 256, "as run() has it");

// Loads all registers but X28 to X30 and the stack pointer, calls the code, and stores them.
void run(struct state *);
#define LOAD_OR_STORE(pair, quad)                                                                                      \
  " add x29, x28, #256\n " quad " {v0.16b-v3.16b}, [x29], #64\n " quad " {v4.16b-v7.16b}, [x29], #64\n"                \
  " " quad " {v8.16b-v11.16b}, [x29], #64\n " quad " {v12.16b-v15.16b}, [x29], #64\n"                                  \
  " " quad " {v16.16b-v19.16b}, [x29], #64\n " quad " {v20.16b-v23.16b}, [x29], #64\n"                                 \
  " " quad " {v24.16b-v27.16b}, [x29], #64\n " quad " {v28.16b-v31.16b}, [x29], #64\n"                                 \
  " " pair " x0, x1, [x28]\n " pair " x2, x3, [x28, #16]\n " pair " x4, x5, [x28, #32]\n " pair " x6, x7, [x28, #48]\n" \
  " " pair " x8, x9, [x28, #64]\n " pair " x10, x11, [x28, #80]\n " pair " x12, x13, [x28, #96]\n"                     \
  " " pair " x14, x15, [x28, #112]\n " pair " x16, x17, [x28, #128]\n " pair " x18, x19, [x28, #144]\n"                \
  " " pair " x20, x21, [x28, #160]\n " pair " x22, x23, [x28, #176]\n " pair " x24, x25, [x28, #192]\n"                \
  " " pair " x26, x27, [x28, #208]\n"
__asm__(
    ".text\n .global run\n .type run, %function\nrun:\n"
    " stp x29, x30, [sp, #-160]!\n stp x19, x20, [sp, #16]\n stp x21, x22, [sp, #32]\n stp x23, x24, [sp, #48]\n"
    " stp x25, x26, [sp, #64]\n stp x27, x28, [sp, #80]\n stp d8, d9, [sp, #96]\n stp d10, d11, [sp, #112]\n"
    " stp d12, d13, [sp, #128]\n stp d14, d15, [sp, #144]\n mov x28, x0\n"
    " ldr x1, [x28, #224]\n msr nzcv, x1\n ldr x1, [x28, #232]\n msr fpcr, x1\n ldr x1, [x28, #240]\n msr fpsr, x1\n"
    LOAD_OR_STORE("ldp", "ld1")
    " ldr x29, [x28, #248]\n blr x29\n"
    LOAD_OR_STORE("stp", "st1")
    " mrs x1, nzcv\n str x1, [x28, #224]\n mrs x1, fpsr\n str x1, [x28, #240]\n msr fpcr, xzr\n"
    " ldp x19, x20, [sp, #16]\n ldp x21, x22, [sp, #32]\n ldp x23, x24, [sp, #48]\n ldp x25, x26, [sp, #64]\n"
    " ldp x27, x28, [sp, #80]\n ldp d8, d9, [sp, #96]\n ldp d10, d11, [sp, #112]\n ldp d12, d13, [sp, #128]\n"
    " ldp d14, d15, [sp, #144]\n ldp x29, x30, [sp], #160\n ret\n");

static sigjmp_buf out;
static void refused(int signal) {
  (void)signal;
  siglongjmp(out, 1);
}

static uint64_t seed;
static uint64_t draw(void) {  // xorshift64*
  seed ^= seed >> 12, seed ^= seed << 25, seed ^= seed >> 27;
  return seed * 0x2545f4914f6cdd1dull;
}
static uint64_t draw_value(void) {
  static const uint64_t edges[] = {0, 1, ~0ull, 1ull << 63, ~0ull >> 1, 0x8000000080000000, 0x7fff7fff7fff7fff, 0x8000800080008000,
                                   0x3ff0000000000000, 0x3f8000003f800000, 0x7ff0000000000000, 0x7ff8000000000001,
                                   0x7ff0000000000001, 0x7f8000007f800001, 0x80808080ff7f0001, 0x0000000100000001};
  return draw() % 3 ? draw() : edges[draw() % (sizeof edges / sizeof *edges)];
}

// Its result goes into one of the first 28 registers, and it does not look at the stack pointer.
static uint32_t draw_computing(void) {
  uint32_t word = (uint32_t)draw();
  switch (draw() % 3) {  // bits 28 to 25
    case 0: word = (word & ~0x1c00001fu) | 0x10000000; break;  // immediates
    case 1: word = (word & ~0x0e00001fu) | 0x0a000000; break;  // registers
    default: word = (word & ~0x0e00001fu) | 0x0e000000; break; // vectors
  }
  if ((word >> 5 & 31) == 31) word ^= 1 << 5;
  if ((word & 0x7f400000) == 0x1b400000) word |= 31 << 10;  // SMULH, UMULH: reserved bits
  return word | draw() % 28;
}
enum { BASE = 27 };
static uint32_t draw_atomic(void) {
  const uint32_t random = (uint32_t)draw(), size = random & 0xc0000000, order = random & 0x00c00000;
  const uint32_t operand = (uint32_t)(draw() % 26), result = (uint32_t)(draw() % 26), registers = operand << 16 | BASE << 5 | result;
  switch (draw() % 4) {
    case 0: return 0x38200000 | size | order | (random & 0x7000) | registers;              // LDADD and its like
    case 1: return 0x38208000 | size | order | registers;                                  // SWP
    case 2: return 0x08a07c00 | size | (random & 0x00408000) | registers;                  // CAS
    default: return 0x08207c00 | (random & 0x40408000) | (registers & ~0x00010001u);       // CASP
  }
}

int main(int argc, char **argv) {
  CHECK(argc == 4);
  const uint64_t first = strtoull(argv[1], NULL, 10);
  const int atomic = strcmp(argv[3], "atomic") == 0;
  const struct sigaction action = {.sa_handler = refused, .sa_flags = SA_NODEFER};
  const int signals[] = {SIGILL, SIGSEGV, SIGBUS, SIGTRAP};
  for (unsigned i = 0; i < 4; ++i) CHECK(sigaction(signals[i], &action, NULL) == 0);
  uint32_t *code = mmap((void *)0x10000000, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  CHECK(code == (void *)0x10000000);
  static const uint64_t rounding[] = {0, 0, 0, 0x00c00000, 0x00400000, 0x00800000, 0x01000000, 0x02000000};
  for (long i = 0; i < atol(argv[2]); ++i) {
    seed = first * 0x9e3779b97f4a7c15 + (uint64_t)i * 0xd1b54a32d192ed03 + 1;
    for (int k = 0; k < 4; ++k) (void)draw();
    code[0] = atomic ? draw_atomic() : draw_computing();
    code[1] = 0xd65f03c0;  // ret
    __builtin___clear_cache((char *)code, (char *)(code + 2));
    for (int k = 0; k < 28; ++k) state.x[k] = draw_value();
    for (int k = 0; k < 64; ++k) {
      const uint64_t value = draw_value();
      memcpy(state.v[k / 2] + k % 2 * 8, &value, sizeof value);
    }
    for (int k = 0; k < 64; ++k) state.memory[k] = draw() % 4 ? draw_value() : state.x[k % 28];
    state.nzcv = draw() & 0xf0000000;
    state.fpcr = rounding[draw() % 8];
    state.fpsr = 0;
    state.code = (uint64_t)code;
    if (atomic) state.x[BASE] = (uint64_t)&state.memory[32] + (draw() % 16 ? 0 : draw() % 16);
    if (sigsetjmp(out, 1)) {
      __asm__ volatile("msr fpcr, xzr");
      printf("%08x refused\n", code[0]);
      continue;
    }
    run(&state);
    state.fpsr &= 1u << 27;
    if (atomic && state.x[BASE] - (uint64_t)&state < sizeof state) state.x[BASE] -= (uint64_t)&state;
    uint64_t digest = 0xcbf29ce484222325;  // FNV-1a
    for (size_t k = 0; k < sizeof state; ++k) digest = (digest ^ ((uint8_t *)&state)[k]) * 0x100000001b3;
    printf("%08x %016llx\n", code[0], (unsigned long long)digest);
  }
  return 0;
}
