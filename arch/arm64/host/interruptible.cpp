// The word of an interruptible call in a signal frame, for arch/interruptible.cpp.
#include <ucontext.h>

#include <cstdint>

namespace ramet::arch {

// In X19 (interruptible.S).
std::uint64_t interruptible_word(const ucontext_t& context) {
  return static_cast<std::uint64_t>(context.uc_mcontext.regs[19]);
}

}  // namespace ramet::arch
