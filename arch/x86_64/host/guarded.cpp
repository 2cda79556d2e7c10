// The program counter in a signal frame, and the landings, for arch/guarded.cpp.
#include <ucontext.h>

#include <cstdint>

namespace ramet::arch {

extern "C" const char ramet_guarded_landing[], ramet_guarded_pair_begin[], ramet_guarded_pair_end[],
    ramet_guarded_pair_landing[];

std::uint64_t program_counter(const ucontext_t& context) {
  return static_cast<std::uint64_t>(context.uc_mcontext.gregs[REG_RIP]);
}
void continue_at(ucontext_t& context, std::uint64_t address) {
  context.uc_mcontext.gregs[REG_RIP] = static_cast<greg_t>(address);
}

std::uint64_t landing_of(std::uint64_t pc) {
  const auto address = [](const char* label) { return reinterpret_cast<std::uintptr_t>(label); };
  const bool pair = pc >= address(ramet_guarded_pair_begin) && pc < address(ramet_guarded_pair_end);
  return address(pair ? ramet_guarded_pair_landing : ramet_guarded_landing);
}

}  // namespace ramet::arch
