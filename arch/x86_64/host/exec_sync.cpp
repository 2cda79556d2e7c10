#include "arch/exec_sync.hpp"

namespace ramet::arch {

void exec_sync(const std::byte*, std::size_t) {}
bool exec_sync_needed() { return false; }
const char* exec_sync_problem() { return nullptr; }

}  // namespace ramet::arch
