#include "vmm/soft/dynarmic/saturating.hpp"

#include "vmm/soft/dynarmic/callbacks.hpp"

namespace ramet::vmm::soft {

bool saturating(Callbacks&, std::uint32_t) { return false; }

}  // namespace ramet::vmm::soft
