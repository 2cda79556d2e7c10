// A model machine: its vCPUs run no code but scripts.
#pragma once

#include "tests/fuzz/system_calls/script.hpp"
#include "vmm/shell.hpp"

namespace ramet::fuzz {

// A shell whose vCPUs run the input. Further shells of the family are made alike.
std::expected<std::unique_ptr<vmm::Shell>, vmm::Failure> make_script_shell(Run&,
                                                                           std::shared_ptr<mm::PhysicalSpace> = {});
// The calling thread runs the input from now on, from its first byte.
void begin_script(Run&);

}  // namespace ramet::fuzz
