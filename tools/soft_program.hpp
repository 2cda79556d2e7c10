// ramet-soft: the same program, linked with the software CPU. It takes longer to start, so ramet becomes it only when a
// guest needs that.
#pragma once

#include <filesystem>

#include "vmm/make_machine.hpp"

namespace ramet::tools {

// Where it is, or this program itself if it is that; empty: nowhere.
std::filesystem::path soft_program();

// What main() was called with, for use_soft_program(). They stay.
void remember_arguments(char** arguments);
// If the choice falls on the software CPU and this program has none, it becomes the one that has, which begins anew.
// Returns where that is not so, or not possible: making the machine then says what is missing.
void use_soft_program(const vmm::MachineChoice&);

}  // namespace ramet::tools
