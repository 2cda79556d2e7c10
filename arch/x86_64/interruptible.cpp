// The signal handler's half of interruptible system calls: see interruptible.hpp.
#include "arch/x86_64/interruptible.hpp"

namespace ramet::arch::x86_64 {

extern "C" const char ramet_interruptible_begin[], ramet_interruptible_end[], ramet_interruptible_abort[];

void abort_interruptible(ucontext_t& context) {
  auto pc = static_cast<std::uintptr_t>(context.uc_mcontext.gregs[REG_RIP]);
  auto begin = reinterpret_cast<std::uintptr_t>(ramet_interruptible_begin);
  auto end = reinterpret_cast<std::uintptr_t>(ramet_interruptible_end);
  if (pc < begin || pc >= end) return;
  // Inside the window RBX is the thread's word (interruptible.S). Not set: the signal was for the vCPU.
  auto word = reinterpret_cast<const volatile std::uint32_t*>(context.uc_mcontext.gregs[REG_RBX]);
  if (*word) context.uc_mcontext.gregs[REG_RIP] = static_cast<greg_t>(reinterpret_cast<std::uintptr_t>(ramet_interruptible_abort));
}

}  // namespace ramet::arch::x86_64
