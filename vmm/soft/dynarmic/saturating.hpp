// Saturating vector arithmetic of ARMv8.0 that the recompiler leaves out: SQDMLAL, SQDMLSL, SQDMULL of scalars, SQRSHL,
// UQRSHL, and SQRSHRN, SQRSHRUN, UQRSHRN of scalars.
#pragma once

#include <cstdint>

namespace ramet::vmm::soft {

class Callbacks;

// As carry_out(), see extra.hpp.
bool saturating(Callbacks&, std::uint32_t instruction);

}  // namespace ramet::vmm::soft
