// The signal handler's half of interruptible system calls: see interruptible.hpp.
#include "arch/interruptible.hpp"

#include <signal.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

namespace ramet::arch {

// x86_64/host/guarded.cpp, arm64/host/guarded.cpp
std::uint64_t program_counter(const ucontext_t&);
void continue_at(ucontext_t&, std::uint64_t address);
// Inside the window: the address of the thread's word. x86_64/host/interruptible.cpp, arm64/host/interruptible.cpp
std::uint64_t interruptible_word(const ucontext_t&);

namespace {

extern "C" const char ramet_interruptible_begin[], ramet_interruptible_end[], ramet_interruptible_abort[];
extern "C" void ramet_return_from_signal();

// Not instrumented: a sanitizer's runtime need not be ready for a handler that it knows nothing of.
__attribute__((no_sanitize("address", "thread", "undefined"))) void on_signal(int, siginfo_t*, void* argument) {
  auto& context = *static_cast<ucontext_t*>(argument);
  auto pc = program_counter(context);
  auto begin = reinterpret_cast<std::uintptr_t>(ramet_interruptible_begin);
  auto end = reinterpret_cast<std::uintptr_t>(ramet_interruptible_end);
  if (pc < begin || pc >= end) return;
  // If the word is not set, the signal was not meant for this call.
  auto word = reinterpret_cast<const volatile std::uint32_t*>(interruptible_word(context));
  if (*word) continue_at(context, reinterpret_cast<std::uintptr_t>(ramet_interruptible_abort));
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
