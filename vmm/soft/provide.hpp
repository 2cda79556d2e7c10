// For programs that are to run arm64 guests on hosts of another kind: linked with ramet::soft.
#pragma once

namespace ramet::vmm {

// Machines of the kind Soft can be made from now on. Before the first is asked for, from any thread.
void provide_soft_engines();

}  // namespace ramet::vmm
