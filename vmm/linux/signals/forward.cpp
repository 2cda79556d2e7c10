#include "vmm/linux/signals/forward.hpp"

#include <sched.h>

#include <atomic>
#include <cerrno>

#include "vmm/linux/processes/process.hpp"

namespace ramet::vmm {
namespace {

// Pairs: stored by ForwardSignals, loaded by the handler on any host thread; the process outlives the handlers,
// which are taken away first.
std::atomic<Process*> forward_to{nullptr};
std::atomic<int> in_handler{0};  // pairs: the handler counts itself in before it loads forward_to

void forward(int sig, siginfo_t* info, void*) {
  in_handler.fetch_add(1, std::memory_order_seq_cst);
  int saved = errno;
  // SI_KERNEL: the terminal's signals, which are for its whole foreground group.
  if (Process* process = forward_to.load(std::memory_order_seq_cst))
    process->forward_from_handler(bit_of(sig), info->si_code == SI_KERNEL);
  errno = saved;
  in_handler.fetch_sub(1, std::memory_order_seq_cst);
}

}  // namespace

ForwardSignals::ForwardSignals(Process& process) {
  Process* nobody = nullptr;
  if (!forward_to.compare_exchange_strong(nobody, &process)) return;
  mine_ = true;
  LockGuard guard(process.signals.lock);
  for (std::size_t i = 0; i < kForwarded.size(); ++i) {
    struct sigaction action{};
    action.sa_sigaction = forward;
    action.sa_flags = SA_RESTART | SA_SIGINFO;
    sigfillset(&action.sa_mask);
    sigaction(kForwarded[i], &action, &old_[i]);
    // What the caller ignores (nohup) the program starts out ignoring, as over execve(2).
    if (old_[i].sa_handler == SIG_IGN) process.signals.actions[static_cast<std::size_t>(kForwarded[i] - 1)].handler = 1;
  }
  // A guest that writes into a closed pipe gets its own SIGPIPE; ramet must not die of the host's.
  struct sigaction ignore{};
  ignore.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &ignore, &old_pipe_);
}

ForwardSignals::~ForwardSignals() {
  if (!mine_) return;
  for (std::size_t i = 0; i < kForwarded.size(); ++i) sigaction(kForwarded[i], &old_[i], nullptr);
  sigaction(SIGPIPE, &old_pipe_, nullptr);
  forward_to.store(nullptr, std::memory_order_seq_cst);
  wait_for_handlers();
}

// A handler on another thread is short, and waits for nothing.
void ForwardSignals::wait_for_handlers() {
  while (in_handler.load(std::memory_order_seq_cst) != 0) sched_yield();
}

}  // namespace ramet::vmm
