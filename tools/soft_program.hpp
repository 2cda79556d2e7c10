// ramet-soft: the same program, linked with the software CPU. It takes longer to start, so ramet becomes it only when a
// guest needs that.
#pragma once

#include <filesystem>

#include "vmm/make_machine.hpp"

namespace ramet::tools {

// Where ramet-soft is, this program itself if it is that; empty: nowhere.
std::filesystem::path soft_program();

// What main() was called with, for use_soft_program(). The arguments outlive the program.
void remember_arguments(char** arguments);
// If the choice falls on the software CPU and this program has none, executes ramet-soft with the same arguments.
// Returns if that is not needed, or not possible: then making the machine says what is missing.
void use_soft_program(const vmm::MachineChoice&);

}  // namespace ramet::tools
