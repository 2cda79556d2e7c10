// Signals by fault: what the handler is told, and that it can mend the fault and go on.
// The other half, signals that somebody sends, is in signals_sent.c.
#define _GNU_SOURCE
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "check.h"
#include "isa.h"

static char alternate[65536];
static siginfo_t seen;
static volatile int count;
static volatile char* page;
static sigjmp_buf back;

static void install(int signal, void (*handler)(int, siginfo_t*, void*), int flags) {
  struct sigaction action = {0};
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO | flags;
  sigemptyset(&action.sa_mask);
  CHECK(sigaction(signal, &action, NULL) == 0);
}

static int on_alternate(void) {
  char here;
  return &here >= alternate && &here < alternate + sizeof alternate;
}

// Mends the protection: the store is repeated and succeeds.
static void mend_by_mprotect(int signal, siginfo_t* info, void* context) {
  const ucontext_t* uc = context;
  seen = *info;
  ++count;
  CHECK(signal == SIGSEGV);
  CHECK(on_alternate());
  CHECK(isa_fault_address(uc) == (uint64_t)info->si_addr);
  CHECK(isa_tells_of_store(uc) == (count == 1));
  CHECK(uc->uc_stack.ss_sp == alternate && uc->uc_stack.ss_size == sizeof alternate);
  CHECK(mprotect((void*)page, 4096, PROT_READ | PROT_WRITE) == 0);
}

// Mends the registers: the load is repeated through a good pointer.
static void mend_by_context(int signal, siginfo_t* info, void* context) {
  ucontext_t* uc = context;
  (void)signal;
  seen = *info;
  ++count;
  isa_set_address(uc, page);
}

static void jump_back(int signal, siginfo_t* info, void* context) {
  (void)context;
  seen = *info;
  ++count;
  siglongjmp(back, signal);
}

static void segv(void) {
  install(SIGSEGV, mend_by_mprotect, SA_ONSTACK);
  CHECK(mprotect((void*)page, 4096, PROT_READ) == 0);
  page[123] = 1;
  CHECK(count == 1 && seen.si_signo == SIGSEGV && seen.si_code == SEGV_ACCERR && seen.si_addr == page + 123);
  CHECK(mprotect((void*)page, 4096, PROT_NONE) == 0);
  CHECK(*(volatile char*)(page + 123) == 1);
  CHECK(count == 2 && seen.si_code == SEGV_ACCERR && seen.si_addr == page + 123);
  puts("SIGSEGV mended by mprotect");

  install(SIGSEGV, mend_by_context, 0);
  page[0] = 42;
  CHECK(isa_load(0x10) == 42 && count == 3 && seen.si_code == SEGV_MAPERR && seen.si_addr == (void*)0x10);
  puts("SIGSEGV mended by a register");

  install(SIGSEGV, jump_back, 0);
  if (sigsetjmp(back, 1) == 0) {
    void* hole = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(munmap(hole, 4096) == 0);
    ((void (*)(void))hole)();
    CHECK(!"reached");
  }
  CHECK(count == 4 && seen.si_code == SEGV_MAPERR);
  if (sigsetjmp(back, 1) == 0) ((void (*)(void))page)();  // mapped, not executable
  CHECK(count == 5 && seen.si_code == SEGV_ACCERR && seen.si_addr == page);
  if (sigsetjmp(back, 1) == 0) *(volatile char*)0x8000000000000000 = 1;  // no address is known
  CHECK(count == 6 && seen.si_code == kIsaWildCode && seen.si_addr == NULL);
  if (sigsetjmp(back, 1) == 0) *(volatile char*)0xffff800000001000 = 1;  // the kernel's half
  CHECK(count == 7 && seen.si_signo == SIGSEGV);
  install(kIsaPrivilegedSignal, jump_back, 0);
  if (sigsetjmp(back, 1) == 0) isa_privileged();
  CHECK(count == 8 && seen.si_signo == kIsaPrivilegedSignal && seen.si_code == kIsaPrivilegedCode);
  puts("SIGSEGV by jumps, wild addresses and a privileged instruction");
}

static void bus(const char* path) {
  install(SIGBUS, jump_back, 0);
  int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
  CHECK(fd >= 0 && ftruncate(fd, 100) == 0);
  volatile char* map = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  CHECK(map != MAP_FAILED);
  map[99] = 'x';
  CHECK(map[200] == 0);
  int before = count;
  if (sigsetjmp(back, 1) == 0) map[4096] = 1;
  CHECK(count == before + 1 && seen.si_signo == SIGBUS && seen.si_code == BUS_ADRERR && seen.si_addr == map + 4096);
  CHECK(ftruncate(fd, 0) == 0);
  if (sigsetjmp(back, 1) == 0) {
    (void)map[99];
    CHECK(!"reached");
  }
  CHECK(count == before + 2 && seen.si_addr == map + 99);
  CHECK(munmap((void*)map, 8192) == 0 && close(fd) == 0 && unlink(path) == 0);
  puts("SIGBUS past the end of a file");
}

static void arithmetic_and_instructions(void) {
  const int before = count + kIsaDivisionTraps;
  install(SIGFPE, jump_back, 0);
  if (kIsaDivisionTraps) {
    if (sigsetjmp(back, 1) == 0) isa_divide_by_zero();
    CHECK(count == before && seen.si_signo == SIGFPE && seen.si_code == FPE_INTDIV && seen.si_addr != NULL);
  }
  install(SIGILL, jump_back, 0);
  if (sigsetjmp(back, 1) == 0) isa_undefined();
  CHECK(count == before + 1 && seen.si_signo == SIGILL && seen.si_code == kIsaUndefinedCode && seen.si_addr != NULL);
  install(SIGTRAP, jump_back, 0);
  if (sigsetjmp(back, 1) == 0) isa_breakpoint();
  CHECK(count == before + 2 && seen.si_signo == SIGTRAP && seen.si_code == kIsaBreakpointCode);
  puts("SIGFPE, SIGILL, SIGTRAP");
}

// Frames that are none.
static void bad_returns(void) {
  install(SIGSEGV, jump_back, SA_ONSTACK);
  static const uintptr_t places[] = {0, 16, 24, 0x7000000008};
  for (unsigned i = 0; i < sizeof places / sizeof *places; ++i) {
    const int before = count;
    if (sigsetjmp(back, 1) == 0) isa_return_from(places[i]);
    CHECK(count == before + 1 && seen.si_signo == SIGSEGV && seen.si_code == kIsaBadReturnCode);
    // Of a frame that cannot be read, Linux has taken zeroes for registers, the stack pointer among them.
    CHECK(seen.si_addr == (kIsaBadReturnAtSp && places[i] % 16 != 0 ? (void*)places[i] : NULL));
  }
  puts("no return from frames that are none");
}

// The alternate stack is what makes a handler for stack overflow possible.
static volatile char* volatile deepest;
#pragma GCC diagnostic ignored "-Winfinite-recursion"
static int overflow(int depth) {
  volatile char block[4096];
  block[0] = (char)depth;
  deepest = block;
  return overflow(depth + 1) + block[0];
}
static void stack_overflow(void) {
  install(SIGSEGV, jump_back, SA_ONSTACK);
  int before = count;
  if (sigsetjmp(back, 1) == 0) CHECK(overflow(0) && !"reached");
  CHECK(count == before + 1 && seen.si_signo == SIGSEGV);
  CHECK((char*)seen.si_addr > (char*)deepest - (1 << 18) && (char*)seen.si_addr < (char*)deepest + 4096);
  puts("SIGSEGV by stack overflow, handled on the alternate stack");
}

int main(int argc, char** argv) {
  char path[4096];
  snprintf(path, sizeof path, "%s/bus", argc > 1 ? argv[1] : "/tmp");
  stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate}, old;
  CHECK(sigaltstack(&stack, NULL) == 0);
  CHECK(sigaltstack(NULL, &old) == 0 && old.ss_sp == alternate && old.ss_size == sizeof alternate && old.ss_flags == 0);
  page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(page != MAP_FAILED);
  segv();
  bus(path);
  arithmetic_and_instructions();
  bad_returns();
  stack_overflow();
  return 0;
}
