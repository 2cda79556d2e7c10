// VM and vCPUs of an x86-64 host.
#include "vmm/kvm/kvm_machine.hpp"

#include <fmt/format.h>

#include <cstring>

#include "vmm/kick_signal.hpp"
#include "vmm/kvm/x86_64/machine.hpp"
#include "vmm/kvm/x86_64/vcpu.hpp"

namespace ramet::vmm {

std::expected<std::unique_ptr<Machine>, Failure> create_kvm_machine(const std::string& device, bool host_clocks) {
  return kvm::KvmMachine::create(device, host_clocks);
}

namespace kvm {

// Intel processors without unrestricted guests keep three pages here for real mode; no bank lies there.
constexpr unsigned long kTssAddress = 0xfffb'd000;

std::expected<std::unique_ptr<KvmMachine>, Failure> KvmMachine::create(const std::string& path, bool host_clocks) {
  auto device = Device::open(path);
  if (!device) return std::unexpected(device.error());
  if ((device->capability(KVM_CAP_SYNC_REGS) & KVM_SYNC_X86_REGS) == 0)
    return failure(fmt::format("{} is too old: it lacks register synchronisation; Linux 4.17 has it", path));
  auto model = CpuModel::get(*device);
  if (!model) return std::unexpected(model.error());
  int vm = call(device->fd, KVM_CREATE_VM, 0);
  if (vm < 0)
    return failure(fmt::format("{} cannot create a virtual machine: {}{}", path, std::strerror(-vm),
                               vm == -EBUSY ? " (another hypervisor holds the processor)" : ""));
  HostFd vm_fd(vm);
  if ((*model)->intel)
    if (int r = call(vm_fd, KVM_SET_TSS_ADDR, kTssAddress); r < 0)
      return failure(fmt::format("KVM_SET_TSS_ADDR: {}", std::strerror(-r)));
  // A local APIC in the kernel, which nothing uses: KVM patches its own code when the first vCPU without one comes, and
  // back when the last goes, which with shadow paging is a seventh of a start. A KVM that refuses one serves as well.
  // With an APIC, KVM would wait for host memory that cannot be reached (its file was truncated) asynchronously, again
  // and again, instead of leaving with EFAULT, unless HLT, which user code cannot execute, does not exit.
  auto enable = [&](unsigned capability, std::uint64_t argument) {
    kvm_enable_cap cap = {};
    cap.cap = capability, cap.args[0] = argument;
    return call(vm_fd, KVM_ENABLE_CAP, &cap) == 0;
  };
  const bool has_apic = (*model)->native_ring3 && enable(KVM_CAP_X86_DISABLE_EXITS, KVM_X86_DISABLE_EXITS_HLT) &&
                        enable(KVM_CAP_SPLIT_IRQCHIP, 0);
  install_kick_signal();
  return std::unique_ptr<KvmMachine>(
      new KvmMachine(std::move(*device), std::move(vm_fd), **model, has_apic, host_clocks));
}

KvmMachine::KvmMachine(Device device, HostFd vm, const CpuModel& model, bool has_apic, bool host_clocks)
    : MachineBase(std::move(device), std::move(vm), 1), model_(model), has_apic_(has_apic), host_clocks_(host_clocks) {}

KvmMachine::~KvmMachine() = default;

Status KvmMachine::attach(mm::AddressSpace& space) {
  if (auto ok = kernel_.install(space); !ok) return ok;
  return host_clocks_ ? show_host_vdso() : Status{};
}

// The only vCPU so far may still do touches in its stub, before which the new one must not run user code.
void KvmMachine::came_into_use(unsigned before) {
  if (before == 1 &&
      flush_.settled.load(std::memory_order_acquire) != flush_.generation.load(std::memory_order_seq_cst))
    expel_older_than(~0ull);
}

std::expected<std::unique_ptr<KvmVcpu>, Failure> KvmMachine::create_vcpu(unsigned id) {
  return KvmVcpu::create(*this, id);
}

}  // namespace kvm
}  // namespace ramet::vmm
