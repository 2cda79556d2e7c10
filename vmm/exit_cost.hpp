// What the way out of a guest and back takes on this host: a part of the price of a fault.
#pragma once

#include <cstdint>

#include "vmm/make_machine.hpp"

namespace ramet::vmm {

// Nanoseconds, the median of 33, measured once a process for each kind of machine. 0: could not be measured.
std::uint64_t exit_cost(const MachineChoice&);

}  // namespace ramet::vmm
