// KVM on arm64 hosts: none yet.
#include "vmm/kvm/kvm_machine.hpp"

#include "vmm/kvm/probe.hpp"

namespace ramet::vmm {
namespace {

constexpr const char* kNotServed = "KVM is not served on arm64 hosts yet";

}  // namespace

std::expected<std::unique_ptr<Machine>, Failure> create_kvm_machine(const std::string&, bool) { return failure(kNotServed); }

void kvm::probe_kvm(HostFacts& f, const std::string&) { f.kvm_problem = kNotServed; }

}  // namespace ramet::vmm
