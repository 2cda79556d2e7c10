// Names of signals, for people.
#pragma once

#include <string>

namespace ramet::vmm {

// "SIGSEGV", "SIGRTMIN+3" (Linux's numbers: SIGRTMIN is 32).
std::string signal_name(int sig);

}  // namespace ramet::vmm
