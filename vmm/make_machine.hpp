// Which machine a guest runs on, and making one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <expected>
#include <memory>
#include <string>

#include "vmm/error.hpp"
#include "vmm/machine.hpp"

namespace ramet::vmm {

namespace soft {
class EnginePool;
}

struct MachineChoice {
  // Auto: KVM where it can be used, else a confined process; the software CPU for programs of another instruction set.
  enum class Kind : std::uint8_t { Auto, Kvm, Process, Soft } kind = Kind::Auto;
  // The ABI of the programs that it is to run. Null: the host's own, or arm64 on the software CPU, which runs no other.
  const arch::GuestAbi* abi = nullptr;
  // On the software CPU: the family's engines; null: new ones.
  std::shared_ptr<soft::EnginePool> engines = {};
  // On the process machine: only the first thread of the guest's host process may map, and none that runs guest code.
  // Faults take longer.
  bool hardened = false;
  // On the process machine: how many mappings the guest's host process is assumed to be allowed. 0: as many as the host
  // says (vm.max_map_count). For tests: few are used up soon; with too many, the host refuses some.
  std::size_t most_mappings = 0;
  // On KVM. False: guest programs make the system call for the time, as on a host whose clocks they cannot reach. For
  // tests.
  bool host_clocks = true;
};

std::string name_of(const MachineChoice&);
// The choice falls on the software CPU, and this program has none: see vmm/soft/provide.hpp.
bool needs_soft_engines(const MachineChoice&);

struct MadeMachine {
  std::unique_ptr<Machine> machine;
  MachineChoice choice;  // what was made, kind never Auto and abi never null: for the family's other machines
  std::string passed_over;  // why Auto did not take KVM; empty if it did, or if the choice was not Auto
};

// Errors: the host cannot, or not for that instruction set; each says what to do.
std::expected<MadeMachine, Failure> make_machine(const MachineChoice&);

}  // namespace ramet::vmm
