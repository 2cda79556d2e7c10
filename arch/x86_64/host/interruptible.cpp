// The signal handler's half of interruptible system calls: see interruptible.hpp.
#include "arch/interruptible.hpp"

#include <signal.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

namespace ramet::arch {
namespace {

extern "C" const char ramet_interruptible_begin[], ramet_interruptible_end[], ramet_interruptible_abort[];
extern "C" void ramet_return_from_signal();

// Not instrumented: a sanitizer's runtime need not be ready for a handler that it knows nothing of.
__attribute__((no_sanitize("address", "thread", "undefined"))) void on_signal(int, siginfo_t*, void* argument) {
  auto& context = *static_cast<ucontext_t*>(argument);
  auto pc = static_cast<std::uintptr_t>(context.uc_mcontext.gregs[REG_RIP]);
  auto begin = reinterpret_cast<std::uintptr_t>(ramet_interruptible_begin);
  auto end = reinterpret_cast<std::uintptr_t>(ramet_interruptible_end);
  if (pc < begin || pc >= end) return;
  // Inside the window RBX is the thread's word (interruptible.S). Not set: the signal was for somebody else.
  auto word = reinterpret_cast<const volatile std::uint32_t*>(context.uc_mcontext.gregs[REG_RBX]);
  if (*word)
    context.uc_mcontext.gregs[REG_RIP] = static_cast<greg_t>(reinterpret_cast<std::uintptr_t>(ramet_interruptible_abort));
}

}  // namespace

bool install_interrupting_signal(int signal) {
  struct {  // the kernel's struct sigaction
    void (*handler)(int, siginfo_t*, void*);
    unsigned long flags;
    void (*restorer)();
    std::uint64_t mask;
  } action{on_signal, SA_SIGINFO | SA_RESTART | 0x04000000 /* SA_RESTORER */, ramet_return_from_signal, ~0ull};
  return syscall(SYS_rt_sigaction, signal, &action, nullptr, sizeof action.mask) == 0;
}

}  // namespace ramet::arch
