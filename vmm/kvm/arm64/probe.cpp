// What KVM can do on this host.
#include "vmm/kvm/probe.hpp"

#include "vmm/kvm/arm64/machine.hpp"

namespace ramet::vmm::kvm {

void probe_kvm(HostFacts& f, const std::string& path) {
  auto machine = KvmMachine::create(path);
  if (!machine) {
    f.kvm_problem = machine.error().message;
    return;
  }
  f.kvm = true;
}

}  // namespace ramet::vmm::kvm
