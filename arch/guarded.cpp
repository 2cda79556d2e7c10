// The signal handler's half of guarded accesses: see guarded.hpp.
#include "arch/guarded.hpp"

#include <signal.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>

namespace ramet::arch {

// x86_64/host/guarded.cpp, arm64/host/guarded.cpp
std::uint64_t program_counter(const ucontext_t&);
void continue_at(ucontext_t&, std::uint64_t address);
std::uint64_t landing_of(std::uint64_t pc);  // of the function that faulted there

namespace {

extern "C" const char ramet_guarded_begin[], ramet_guarded_end[];
std::uint64_t address_of(const char* label) { return reinterpret_cast<std::uintptr_t>(label); }

// The handler that was installed before ours.
struct Before {
  struct sigaction action;          // written before our handler is installed, then read only
  std::atomic<bool> called{false};  // a handler with SA_RESETHAND is called once; relaxed, orders nothing
};
// [0]: before install_guard(). [1]: before install_guard_on_top(); this handler chains to ours.
Before before_segv[2], before_bus[2];
// The index to which our handler chains. Release after before_*[1] was written; acquire in hand_on().
std::atomic<unsigned> on_top{0};
// Set while this thread's handler has chained into [1]; a fault that [1] chains back goes to [0].
thread_local volatile sig_atomic_t handed_on = 0;

// Does what the kernel does if there is no handler.
void as_without_handler(int signal, const siginfo_t& info, bool ignored) {
  const bool sent = info.si_code <= 0;  // by kill(2) and the like: the instruction will not fault again
  if (sent && ignored) return;
  struct sigaction standard{};
  standard.sa_handler = SIG_DFL;
  ::sigaction(signal, &standard, nullptr);
  if (sent) ::syscall(SYS_tgkill, ::getpid(), ::syscall(SYS_gettid), signal);  // comes when this handler returns
}

void hand_on_to(Before& before, int signal, siginfo_t* info, void* context) {
  const struct sigaction& action = before.action;
  const bool spent = (action.sa_flags & SA_RESETHAND) && before.called.exchange(true, std::memory_order_relaxed);
  if (!spent && (action.sa_flags & SA_SIGINFO)) return action.sa_sigaction(signal, info, context);
  if (!spent && action.sa_handler != SIG_DFL && action.sa_handler != SIG_IGN) return action.sa_handler(signal);
  as_without_handler(signal, *info, !spent && action.sa_handler == SIG_IGN);
}

void hand_on(int signal, siginfo_t* info, void* context) {
  const sig_atomic_t again = handed_on;
  handed_on = 1;
  hand_on_to((signal == SIGBUS ? before_bus : before_segv)[again ? 0 : on_top.load(std::memory_order_acquire)], signal,
             info, context);
  handed_on = again;
}

// Not instrumented: it runs wherever a fault happens, which a sanitizer's runtime need not be ready for.
__attribute__((no_sanitize("address", "thread", "undefined"))) void on_fault(int signal, siginfo_t* info,
                                                                             void* argument) {
  auto& context = *static_cast<ucontext_t*>(argument);
  const std::uint64_t pc = program_counter(context);
  if (pc >= address_of(ramet_guarded_begin) && pc < address_of(ramet_guarded_end) && info->si_code > 0) {
    continue_at(context, landing_of(pc));
    return;
  }
  const int saved = errno;
  hand_on(signal, info, argument);
  errno = saved;
}

void install(int signal, struct sigaction& before) {
  ::sigaction(signal, nullptr, &before);  // first, as our handler may be called as soon as it is installed
  struct sigaction ours{};
  ours.sa_sigaction = on_fault;
  ours.sa_mask = before.sa_mask;  // as the handler before ours expects
  // On the thread's signal stack if it has one: the fault that is handed on may be a stack that has overflowed.
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK | (before.sa_flags & (SA_NODEFER | SA_RESTART));
  ::sigaction(signal, &ours, nullptr);
}

// Bytes from `at` to the next multiple of 4096; a host's pages are of 4096 bytes or a multiple.
std::size_t left_in_page(const void* at) {
  constexpr std::size_t kPage = 4096;
  return kPage - (reinterpret_cast<std::uintptr_t>(at) & (kPage - 1));
}

}  // namespace

// ramet_guarded_copy() reads the end of a copy first, and a word across a page boundary is written as a whole or not at
// all. So each piece lies in one page on both sides.
void guarded_copy_up_to_fault(void* to, const void* from, std::size_t bytes) {
  while (bytes > 0) {
    const std::size_t n = std::min({bytes, left_in_page(to), left_in_page(from)});
    if (ramet_guarded_copy(to, from, n).fault) return;
    to = static_cast<char*>(to) + n;
    from = static_cast<const char*>(from) + n;
    bytes -= n;
  }
}

void install_guard() {
  [[maybe_unused]] static const bool once = [] {
    install(SIGSEGV, before_segv[0].action);
    install(SIGBUS, before_bus[0].action);
    return true;
  }();
}

void install_guard_on_top() {
  install_guard();
  [[maybe_unused]] static const bool once = [] {
    install(SIGSEGV, before_segv[1].action);
    install(SIGBUS, before_bus[1].action);
    on_top.store(1, std::memory_order_release);
    return true;
  }();
}

}  // namespace ramet::arch
