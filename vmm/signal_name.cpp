#include "vmm/signal_name.hpp"

#include <fmt/format.h>
#include <string.h>

namespace ramet::vmm {

std::string signal_name(int sig) {
  if (const char* name = sig < 32 ? sigabbrev_np(sig) : nullptr) return std::string("SIG") + name;
  return fmt::format("SIGRTMIN+{}", sig - 32);
}

}  // namespace ramet::vmm
