#include "vmm/kvm/probe.hpp"

#include "vmm/kvm/device.hpp"
#include "vmm/kvm/micro_guest.hpp"

namespace ramet::vmm::kvm {
namespace {

Status probe(HostFacts& f, const std::string& path) {
  auto device = Device::open(path);
  if (!device) return std::unexpected(device.error());
  f.max_vcpus = unsigned(device->capability(KVM_CAP_MAX_VCPUS));
  f.max_memslots = unsigned(device->capability(KVM_CAP_NR_MEMSLOTS));
  auto guest = MicroGuest::create(path);
  if (!guest) return std::unexpected(guest.error());
  return probe_with(f, **guest);
}

}  // namespace

void probe_kvm(HostFacts& f, const std::string& path) {
  const Status probed = probe(f, path);
  f.kvm = probed.has_value();
  if (!probed) f.kvm_problem = probed.error().message;
}

}  // namespace ramet::vmm::kvm
