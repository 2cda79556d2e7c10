// The stack a program starts with: argc, argv, envp, the auxiliary vector, and the strings they point to.
#pragma once

#include <expected>
#include <string>
#include <vector>

#include "vmm/error.hpp"
#include "vmm/linux/credentials.hpp"
#include "vmm/linux/program/image.hpp"

namespace ramet::vmm {

struct StackContents {
  mm::Gva program_headers = 0;      // 0: not in memory
  unsigned header_count = 0;
  mm::Gva entry = 0, interpreter_base = 0;
  const std::vector<std::string>* arguments = nullptr;
  const std::vector<std::string>* environment = nullptr;
  std::string executable;
  std::shared_ptr<const Credentials> credentials = Credentials::of_vmm();
};

// Writes it below image.stack_top, which is mapped; sets image.auxv; returns the stack pointer. Errors: status 126,
// arguments and environment larger than a quarter of the stack (Linux: E2BIG) or than the guest's memory; 125, the host
// has no random bytes.
std::expected<mm::Gva, Failure> build_stack(Image&, const StackContents&);

}  // namespace ramet::vmm
