#include "vmm/make_machine.hpp"

#include "vmm/kvm/kvm_machine.hpp"
#include "vmm/process/machine.hpp"

namespace ramet::vmm {

std::expected<std::unique_ptr<Machine>, Failure> make_machine(const MachineChoice& choice) {
  switch (choice.kind) {
    case MachineChoice::Kind::Process: {
      auto made = process::ProcessMachine::create();
      if (!made) return std::unexpected(made.error());
      return std::unique_ptr<Machine>(std::move(*made));
    }
    case MachineChoice::Kind::Kvm: break;
  }
  return create_kvm_machine();
}

}  // namespace ramet::vmm
