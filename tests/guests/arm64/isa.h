// What guests need of the instruction set that they are compiled for, as arm64 and its Linux have it. x86_64/isa.h is the
// twin. For C and C++.
#pragma once

#include <asm/sigcontext.h>
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <ucontext.h>

// --- what a handler is told of a fault ---

static inline uint64_t isa_fault_address(const ucontext_t* uc) { return uc->uc_mcontext.fault_address; }
// A page fault by a store of user code: ESR_EL1 has the class of data aborts, and WnR.
static inline int isa_tells_of_store(const ucontext_t* uc) {
  const struct _aarch64_ctx* record = (const struct _aarch64_ctx*)uc->uc_mcontext.__reserved;
  for (; record->magic; record = (const struct _aarch64_ctx*)((const char*)record + record->size)) {
    if (record->magic != ESR_MAGIC) continue;
    const uint64_t esr = ((const struct esr_context*)record)->esr;
    return esr >> 26 == 0x24 && (esr & 0x40);
  }
  return 0;
}
// Loads through one register, which a handler may set.
static inline char isa_load(uintptr_t address) {
  uint32_t value;
  __asm__ volatile("mov x20, %1\n\tldrb %w0, [x20]" : "=r"(value) : "r"(address) : "x20", "memory");
  return (char)value;
}
static inline void isa_set_address(ucontext_t* uc, volatile void* address) { uc->uc_mcontext.regs[20] = (uint64_t)address; }
// si_code of an access to 1 << 63: the upper byte is no part of an address.
enum { kIsaWildCode = SEGV_MAPERR };

// --- instructions that end in a signal ---

static inline void isa_undefined(void) { __asm__ volatile("udf #0"); }
static inline void isa_breakpoint(void) { __asm__ volatile("brk #0"); }
static inline void isa_privileged(void) { __asm__ volatile("mrs x0, ttbr0_el1" ::: "x0"); }
enum { kIsaUndefinedCode = ILL_ILLOPC, kIsaBreakpointCode = TRAP_BRKPT, kIsaPrivilegedSignal = SIGILL, kIsaPrivilegedCode = ILL_ILLOPC };
enum { kIsaDivisionTraps = 0 };
static inline void isa_divide_by_zero(void) { __asm__ volatile("sdiv x0, x0, xzr" ::: "x0"); }
// Whatever user code has to bring the machine down.
static inline void isa_bring_down(void) { __asm__ volatile("hvc #0"); }
static inline void isa_push_at_4096(void) { __asm__ volatile("mov x0, #0x1000\n\tmov sp, x0\n\tstr x0, [sp, #-16]!"); }

// --- system calls ---

// clone(2), or clone3(2) with its arguments in the first two. The child ends at once and uses no stack.
static inline long isa_clone(long number, long flags, long stack, long parent_tid, long child_tid, long tls) {
  register long x8 __asm__("x8") = number;
  register long x0 __asm__("x0") = flags;
  register long x1 __asm__("x1") = stack;
  register long x2 __asm__("x2") = parent_tid;
  register long x3 __asm__("x3") = tls;
  register long x4 __asm__("x4") = child_tid;
  __asm__ volatile("svc #0; cbnz x0, 1f; mov x8, #93; svc #0; 1:" : "+r"(x0), "+r"(x8) : "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
  return x0;
}

// Calls that arm64 has not, under numbers that are no calls.
enum {
  SYS_fork = -1001,
  SYS_vfork = -1002,
  SYS_arch_prctl = -1003,
  SYS_open = -1004,
  SYS_poll = -1005,
  SYS_dup2 = -1006,
  SYS_alarm = -1007,
};

// rt_sigreturn(2) with that stack pointer.
static inline void isa_return_from(uintptr_t sp) {
  __asm__ volatile("mov sp, %0\n\tmov x8, #139\n\tsvc #0" : : "r"(sp) : "memory");
}
// What a handler is told if there is no frame.
enum { kIsaBadReturnCode = SEGV_ACCERR, kIsaBadReturnAtSp = 1 };

// --- the rest ---

#define ISA_MACHINE "aarch64"              // uname(2)
#define ISA_FEATURES "\nFeatures\t: fp asimd "  // in /proc/cpuinfo

// A function that returns `value`: its length. Instruction fetch does not know of it yet.
static inline unsigned isa_function(uint16_t value, unsigned char* to) {
  const uint32_t text[] = {0x52800000u | (uint32_t)value << 5, 0xd65f03c0};  // mov w0, #value; ret
  const unsigned char* bytes = (const unsigned char*)text;
  for (unsigned i = 0; i < sizeof text; ++i) to[i] = bytes[i];
  return sizeof text;
}

// What this processor has fetched ahead is not run.
static inline void isa_fetch_anew(void) { __asm__ volatile("isb" ::: "memory"); }

static inline void isa_relax(void) { __asm__ volatile("yield"); }

// The vDSO's functions: __kernel_NAME.
#define ISA_VDSO_PREFIX "__kernel_"
#define ISA_VDSO_VERSION "LINUX_2.6.39"
enum { kIsaVdsoHasOldNames = 0, kIsaVdsoHasTimeAndCpu = 0 };
