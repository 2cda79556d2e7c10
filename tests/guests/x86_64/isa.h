// What guests need of the instruction set that they are compiled for, as x86-64 and its Linux have it. arm64/isa.h is the
// twin. For C and C++.
#pragma once

#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <ucontext.h>

// --- what a handler is told of a fault ---

static inline uint64_t isa_fault_address(const ucontext_t* uc) { return (uint64_t)uc->uc_mcontext.gregs[REG_CR2]; }
// A page fault by a store of user code.
static inline int isa_tells_of_store(const ucontext_t* uc) {
  return uc->uc_mcontext.gregs[REG_TRAPNO] == 14 && (uc->uc_mcontext.gregs[REG_ERR] & 6) == 6;
}
// Loads through one register, which a handler may set.
static inline char isa_load(uintptr_t address) {
  char value = 0;
  __asm__ volatile("movq %1, %%rbx\n\tmovb (%%rbx), %0" : "=r"(value) : "r"(address) : "rbx", "memory");
  return value;
}
static inline void isa_set_address(ucontext_t* uc, volatile void* address) { uc->uc_mcontext.gregs[REG_RBX] = (greg_t)address; }
// si_code of an access to 1 << 63, which is not canonical.
enum { kIsaWildCode = SI_KERNEL };

// --- instructions that end in a signal ---

static inline void isa_undefined(void) { __asm__ volatile("ud2"); }
static inline void isa_breakpoint(void) { __asm__ volatile("int3"); }
static inline void isa_privileged(void) { __asm__ volatile("hlt"); }
enum { kIsaUndefinedCode = ILL_ILLOPN, kIsaBreakpointCode = SI_KERNEL, kIsaPrivilegedSignal = SIGSEGV, kIsaPrivilegedCode = SI_KERNEL };
enum { kIsaDivisionTraps = 1 };
static inline void isa_divide_by_zero(void) {
  __asm__ volatile("xorl %%ecx, %%ecx\n\tmovl $1, %%eax\n\tcltd\n\tidivl %%ecx" ::: "eax", "ecx", "edx");
}
// Whatever user code has to bring the machine down.
static inline void isa_bring_down(void) { __asm__ volatile("int $8"); }
static inline void isa_push_at_4096(void) { __asm__ volatile("movq $0x1000, %rsp\n\tpushq %rax"); }

// --- system calls ---

// clone(2), or clone3(2) with its arguments in the first two. The child ends at once and uses no stack.
static inline long isa_clone(long number, long flags, long stack, long parent_tid, long child_tid, long tls) {
  register long r10 __asm__("r10") = child_tid;
  register long r8 __asm__("r8") = tls;
  long result;
  __asm__ volatile(
      "syscall; test %%rax, %%rax; jnz 1f; mov $60, %%eax; xor %%edi, %%edi; syscall; 1:"
      : "=a"(result)
      : "a"(number), "D"(flags), "S"(stack), "d"(parent_tid), "r"(r10), "r"(r8)
      : "rcx", "r11", "memory");
  return result;
}

// rt_sigreturn(2) with that stack pointer.
static inline void isa_return_from(uintptr_t sp) {
  __asm__ volatile("movq %0, %%rsp\n\tmovl $15, %%eax\n\tsyscall" : : "r"(sp) : "memory");
}
// What a handler is told if there is no frame.
enum { kIsaBadReturnCode = SI_KERNEL, kIsaBadReturnAtSp = 0 };

// --- the rest ---

#define ISA_MACHINE "x86_64"             // uname(2)
#define ISA_FEATURES "\nflags\t\t: fpu "  // in /proc/cpuinfo

// A function that returns `value`: its length. Instruction fetch does not know of it yet.
static inline unsigned isa_function(uint16_t value, unsigned char* to) {
  const unsigned char text[] = {0xb8, (unsigned char)value, (unsigned char)(value >> 8), 0, 0, 0xc3};  // mov $value, %eax; ret
  for (unsigned i = 0; i < sizeof text; ++i) to[i] = text[i];
  return sizeof text;
}

// What this processor has fetched ahead is not run.
static inline void isa_fetch_anew(void) { __asm__ volatile("" ::: "memory"); }

static inline void isa_relax(void) { __builtin_ia32_pause(); }

// The vDSO's functions: __vdso_NAME; the older ones have their short names as well.
#define ISA_VDSO_PREFIX "__vdso_"
#define ISA_VDSO_VERSION "LINUX_2.6"
enum { kIsaVdsoHasOldNames = 1, kIsaVdsoHasTimeAndCpu = 1 };
