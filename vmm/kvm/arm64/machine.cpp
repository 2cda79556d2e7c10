// VM and vCPUs of an arm64 host.
#include "vmm/kvm/arm64/machine.hpp"

#include <fmt/format.h>
#include <sys/auxv.h>

#include <algorithm>
#include <cstring>

#include "arch/arm64/hwcap_names.hpp"
#include "arch/exec_sync.hpp"
#include "arch/host_processor.hpp"
#include "vmm/kick_signal.hpp"
#include "vmm/kvm/arm64/vcpu.hpp"
#include "vmm/kvm/ask_once.hpp"
#include "vmm/kvm/kvm_machine.hpp"

namespace ramet::vmm {

std::expected<std::unique_ptr<Machine>, Failure> create_kvm_machine(const std::string& device, bool) {
  return kvm::KvmMachine::create(device);
}

namespace kvm {

namespace arm64 = arch::arm64;

namespace {

// Bits of guest-physical addresses, as many as the host gives within these; entries have room for 48.
constexpr int kLeastBits = 40, kMostBits = 46;

// What user code can do on such a processor without a kernel's help, and with no state but FpSimd's.
using arm64::hwcap;
constexpr std::uint64_t kHwcaps = hwcap("fp") | hwcap("asimd") | hwcap("aes") | hwcap("pmull") | hwcap("sha1") |
                                  hwcap("sha2") | hwcap("crc32") | hwcap("atomics") | hwcap("fphp") | hwcap("asimdhp") |
                                  hwcap("asimdrdm") | hwcap("jscvt") | hwcap("fcma") | hwcap("lrcpc") | hwcap("dcpop") |
                                  hwcap("sha3") | hwcap("sm3") | hwcap("sm4") | hwcap("asimddp") | hwcap("sha512") |
                                  hwcap("asimdfhm") | hwcap("dit") | hwcap("uscat") | hwcap("ilrcpc") | hwcap("flagm") |
                                  hwcap("sb");
constexpr std::uint64_t kHwcaps2 = 1u << 0 | 1u << 7 | 1u << 8 | 1u << 13 |
                                   1u << 14;  // dcpodp, flagm2, frint, i8mm, bf16

std::expected<HostFd, Failure> create_vm(const Device& device, int bits) {
  const int vm = call(device.fd, KVM_CREATE_VM, KVM_VM_TYPE_ARM_IPA_SIZE(static_cast<unsigned>(bits)));
  if (vm < 0) return failure(fmt::format("KVM cannot create a virtual machine: {}", std::strerror(-vm)));
  return HostFd(vm);
}

std::expected<std::uint64_t, Failure> read(const HostFd& vcpu, arm64::SystemRegister r) {
  std::uint64_t value = 0;
  kvm_one_reg one = {.id = ARM64_SYS_REG(r.op0, r.op1, r.crn, r.crm, r.op2),
                     .addr = reinterpret_cast<std::uint64_t>(&value)};
  if (int e = call(vcpu, KVM_GET_ONE_REG, &one); e < 0)
    return failure(fmt::format("KVM does not tell what its guests' processor is: {}", std::strerror(-e)));
  return value;
}

std::expected<CpuModel, Failure> ask(const Device& device) {
  if (const char* const why = arch::exec_sync_problem()) return failure(why);
  const int bits = device.capability(KVM_CAP_ARM_VM_IPA_SIZE);
  if (bits < kLeastBits)
    return failure(
        fmt::format("KVM does not serve here: guests have addresses of {} bits, and {} are needed", bits, kLeastBits));
  CpuModel m;
  m.features.physical_bits = static_cast<unsigned>(std::min(bits, kMostBits));
  // A VM that is only asked, and then destroyed.
  auto vm = create_vm(device, static_cast<int>(m.features.physical_bits));
  if (!vm) return std::unexpected(vm.error());
  if (int r = call(*vm, KVM_ARM_PREFERRED_TARGET, &m.init); r < 0)
    return failure(fmt::format("KVM_ARM_PREFERRED_TARGET: {}", std::strerror(-r)));
  const int fd = call(*vm, KVM_CREATE_VCPU, 0);
  if (fd < 0) return failure(fmt::format("KVM cannot create a virtual CPU: {}", std::strerror(-fd)));
  const HostFd vcpu(fd);
  if (int r = call(vcpu, KVM_ARM_VCPU_INIT, &m.init); r < 0)
    return failure(fmt::format("KVM_ARM_VCPU_INIT: {}", std::strerror(-r)));
  const auto model0 = read(vcpu, arm64::kMemoryModel0), model1 = read(vcpu, arm64::kMemoryModel1);
  if (!model0) return std::unexpected(model0.error());
  if (!model1) return std::unexpected(model1.error());
  m.memory_model0 = *model0;
  m.updates = arm64::entry_updates(*model1);
  m.features.hwcap = ::getauxval(AT_HWCAP) & kHwcaps;
  m.features.hwcap2 = ::getauxval(AT_HWCAP2) & kHwcaps2;
  m.features.fp = arm64::kFpFormat;
  m.features.model_name = arch::host_processor().model;
  m.features.flags = arm64::feature_names(m.features.hwcap, m.features.hwcap2);
  m.features.giant_pages = true;
  // Where the processor does not set both, entries have them from the start: else a fault would set them, an exit.
  m.features.dear_accessed_dirty = !(m.updates.accessed && m.updates.dirty);
  return m;
}

}  // namespace

std::expected<const CpuModel*, Failure> CpuModel::get(const Device& device) {
  return ask_once<CpuModel>([&] { return ask(device); });
}

std::expected<std::unique_ptr<KvmMachine>, Failure> KvmMachine::create(const std::string& path,
                                                                       arch::arm64::EntryUpdates updates) {
  auto device = Device::open(path);
  if (!device) return std::unexpected(device.error());
  auto model = CpuModel::get(*device);
  if (!model) return std::unexpected(model.error());
  auto vm = create_vm(*device, static_cast<int>((*model)->features.physical_bits));
  if (!vm) return std::unexpected(vm.error());
  install_kick_signal();
  return std::unique_ptr<KvmMachine>(new KvmMachine(std::move(*device), std::move(*vm), **model, updates));
}

KvmMachine::KvmMachine(Device device, HostFd vm, const CpuModel& model, arch::arm64::EntryUpdates updates)
    : MachineBase(std::move(device), std::move(vm), 0), model_(model), updates_(model.updates & updates) {}

KvmMachine::~KvmMachine() = default;

Status KvmMachine::attach(mm::AddressSpace& space) {
  memory_ = &space.physical();
  if (auto ok = kernel_.install(space); !ok) return ok;
  return kernel_.map_hole();
}

std::expected<std::unique_ptr<KvmVcpu>, Failure> KvmMachine::create_vcpu(unsigned id) {
  return KvmVcpu::create(*this, id);
}

}  // namespace kvm
}  // namespace ramet::vmm
