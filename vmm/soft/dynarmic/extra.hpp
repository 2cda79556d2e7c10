// Instructions that the recompiler leaves to others and that programs have a right to: all of ARMv8.0, and the atomics
// of ARMv8.1 (LSE). After the Arm Architecture Reference Manual, C6 and C7.
#pragma once

#include <cstdint>

namespace ramet::vmm::soft {

class Callbacks;

// Carries the instruction out, but leaves the program counter. False: it is none of these. If it faults, `stop` says so
// and nothing has changed.
bool carry_out(Callbacks&, std::uint32_t instruction);

}  // namespace ramet::vmm::soft
