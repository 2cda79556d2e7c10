// Which machine a guest runs on, and making one.
#pragma once

#include <cstdint>
#include <expected>
#include <memory>

#include "vmm/error.hpp"
#include "vmm/machine.hpp"

namespace ramet::vmm {

struct MachineChoice {
  enum class Kind : std::uint8_t { Kvm, Process } kind = Kind::Kvm;
};

// Errors: the host cannot; each says what to do.
std::expected<std::unique_ptr<Machine>, Failure> make_machine(const MachineChoice&);

}  // namespace ramet::vmm
