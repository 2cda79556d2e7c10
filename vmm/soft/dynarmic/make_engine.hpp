#pragma once

#include "vmm/soft/engine.hpp"

namespace ramet::vmm::soft {

// See MakeEngine.
Engine* make_engine(const GuardedWords&) noexcept;

}  // namespace ramet::vmm::soft
