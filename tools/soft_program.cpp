#include "tools/soft_program.hpp"

#include <unistd.h>

#include <filesystem>
#include <system_error>

namespace ramet::tools {
namespace {

char** arguments;

}  // namespace

void remember_arguments(char** given) { arguments = given; }

std::filesystem::path soft_program() {
  std::error_code none;
  auto self = std::filesystem::read_symlink("/proc/self/exe", none);
  if (none) return {};
  if (!vmm::needs_soft_engines({.kind = vmm::MachineChoice::Kind::Soft})) return self;
  const auto directory = self.parent_path();
  for (const auto& candidate : {directory / "ramet-soft", directory.parent_path() / "libexec/ramet/ramet-soft"})
    if (::access(candidate.c_str(), X_OK) == 0) return candidate;
  return {};
}

void use_soft_program(const vmm::MachineChoice& choice) {
  if (arguments && vmm::needs_soft_engines(choice)) ::execv(soft_program().c_str(), arguments);
}

}  // namespace ramet::tools
