// The program counter in a signal frame, and the landing, for arch/guarded.cpp.
#include <ucontext.h>

#include <cstdint>

namespace ramet::arch {

extern "C" const char ramet_guarded_landing[];

std::uint64_t program_counter(const ucontext_t& context) { return static_cast<std::uint64_t>(context.uc_mcontext.pc); }
void continue_at(ucontext_t& context, std::uint64_t address) { context.uc_mcontext.pc = address; }

std::uint64_t landing_of(std::uint64_t) { return reinterpret_cast<std::uintptr_t>(ramet_guarded_landing); }

}  // namespace ramet::arch
