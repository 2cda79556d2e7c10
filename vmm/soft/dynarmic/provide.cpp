#include "vmm/soft/provide.hpp"

#include "vmm/soft/dynarmic/make_engine.hpp"
#include "vmm/soft/engine_pool.hpp"

namespace ramet::vmm {

void provide_soft_engines() { soft::use_engines(soft::make_engine); }

}  // namespace ramet::vmm
