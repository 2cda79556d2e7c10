// ELF loader: maps a program (and its interpreter) into an address space and lays out the first stack.
#pragma once

#include <expected>
#include <string>
#include <vector>

#include "vmm/error.hpp"
#include "vmm/linux/program/image.hpp"

namespace ramet::vmm {

class Process;
struct Share;

struct Start {
  mm::Gva pc = 0, sp = 0;
};

// Loads the first program of a family into the process's image, whose memory is empty. `program` is a path on the host,
// or the guest's if a root is shared. Checks and maps it, loads the interpreter from what is shared, and lays out the
// stack. Every refusal is one sentence with its status: 126 for what cannot be run (wrong architecture, truncated,
// malformed, interpreter missing), 127 for what is not found. `stack_bytes`: the stack's limit.
std::expected<Start, Failure> load(Process&, const std::string& program, const std::vector<std::string>& arguments,
                                   const std::vector<std::string>& environment, std::uint64_t stack_bytes);

// The same for execve(2): `file` was opened by the guest as `name`, and goes into `image`, which nobody runs yet.
// Failure::error is what the guest gets.
std::expected<Start, Failure> load(Process&, Image& image, std::shared_ptr<OpenFile> file, const std::string& name,
                                   const std::vector<std::string>& arguments,
                                   const std::vector<std::string>& environment, std::uint64_t stack_bytes);

// The ABI of a family's first program, to choose its machine by. Null: an unknown one, or there is no such program:
// load() then says what is the matter.
const arch::GuestAbi* find_program_abi(const std::vector<Share>&, const std::string& program);

}  // namespace ramet::vmm
