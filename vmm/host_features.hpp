// What guest code sees of the processor where it runs as code of a host process.
#pragma once

#include "vmm/machine.hpp"

namespace ramet::vmm {

const Machine::Features& host_features();

}  // namespace ramet::vmm
