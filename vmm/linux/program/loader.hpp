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

// Opens the first program of a family on the host itself (HOST path: `ramet run PROGRAM` names a host file, unless
// --root is given, where PROGRAM is a guest path first), checks and maps it, loads the interpreter from what was
// shared, builds argc/argv/envp/auxv, and fills the process's image, whose memory is empty.
// Every refusal is one sentence with the documented status (126 not executable: wrong architecture,
// truncated, malformed, interpreter missing; 127 not found). `stack_bytes`: RLIMIT_STACK.
std::expected<Start, Failure> load(Process&, const std::string& program, const std::vector<std::string>& arguments,
                                   const std::vector<std::string>& environment, std::uint64_t stack_bytes);

// The same for execve(2): `file` was opened by the guest as `name`, and goes into `image`, which nobody runs yet.
// Failure::error is what the guest gets.
std::expected<Start, Failure> load(Process&, Image& image, std::shared_ptr<OpenFile> file, const std::string& name,
                                   const std::vector<std::string>& arguments,
                                   const std::vector<std::string>& environment, std::uint64_t stack_bytes);

// Whose instruction set a family's first program is of, to choose its machine by. Null: none that ramet knows, or there
// is no such program: load() says what is the matter.
const arch::GuestAbi* find_program_abi(const std::vector<Share>&, const std::string& program);

}  // namespace ramet::vmm
