// What guest code sees of the processor where it runs on the host's own, without anything in between.
#pragma once

#include "vmm/machine.hpp"

namespace ramet::vmm {

const Machine::Features& host_features();

}  // namespace ramet::vmm
