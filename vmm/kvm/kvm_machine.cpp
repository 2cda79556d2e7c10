// VM, memslots and the pool of vCPUs.
#include "vmm/kvm/kvm_machine.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "vmm/kick_signal.hpp"
#include "vmm/kvm/kick.hpp"
#include "vmm/kvm/machine.hpp"
#include "vmm/kvm/vcpu.hpp"

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
  auto model = CpuModel::get(*device);
  if (!model) return std::unexpected(model.error());
  int vm = call(device->fd, KVM_CREATE_VM, 0);
  if (vm < 0)
    return failure(fmt::format("{} cannot create a virtual machine: {}{}", path, std::strerror(-vm),
                               vm == -EBUSY ? " (another hypervisor holds the processor)" : ""));
  Fd vm_fd(vm);
  if ((*model)->intel)
    if (int r = call(vm_fd, KVM_SET_TSS_ADDR, kTssAddress); r < 0) return failure(fmt::format("KVM_SET_TSS_ADDR: {}", std::strerror(-r)));
  // A local APIC in the kernel, which nothing uses: without one KVM patches its own code for the first vCPU that
  // has none, and back for the last. With shadow paging that is a seventh of a start; a KVM that cannot is as good.
  // With one, KVM would wait for host memory that cannot be reached (its file was truncated) asynchronously, again and
  // again, instead of leaving with EFAULT; unless HLT, which no user code can execute, does not exit either.
  auto enable = [&](unsigned capability, std::uint64_t argument) {
    kvm_enable_cap cap = {};
    cap.cap = capability, cap.args[0] = argument;
    return call(vm_fd, KVM_ENABLE_CAP, &cap) == 0;
  };
  const bool has_apic = (*model)->native_ring3 && enable(KVM_CAP_X86_DISABLE_EXITS, KVM_X86_DISABLE_EXITS_HLT) &&
                        enable(KVM_CAP_SPLIT_IRQCHIP, 0);
  install_kick_signal();
  return std::unique_ptr<KvmMachine>(new KvmMachine(std::move(*device), std::move(vm_fd), **model, has_apic, host_clocks));
}

KvmMachine::KvmMachine(Device device, Fd vm, const CpuModel& model, bool has_apic, bool host_clocks)
    : device_(std::move(device)), vm_(std::move(vm)), model_(model), has_apic_(has_apic), host_clocks_(host_clocks),
      max_slots_(unsigned(std::max(device_.capability(KVM_CAP_NR_MEMSLOTS), 32)) - 1),
      max_vcpus_(unsigned(std::max(device_.capability(KVM_CAP_MAX_VCPUS), device_.capability(KVM_CAP_NR_VCPUS)))) {}

KvmMachine::~KvmMachine() = default;

// --- memslots ---

bool KvmMachine::set_slot(unsigned slot, const mm::Bank& bank, bool present) {
  kvm_userspace_memory_region region = {};
  region.slot = slot;
  // What a guest in ring 0 stores there does not happen, and comes out as an MMIO exit.
  region.flags = bank.read_only() ? KVM_MEM_READONLY : 0;
  region.guest_phys_addr = bank.base();
  region.memory_size = present ? bank.size() : 0;
  region.userspace_addr = reinterpret_cast<std::uint64_t>(bank.host());
  return call(vm_, KVM_SET_USER_MEMORY_REGION, &region) == 0;
}

mm::Result<> KvmMachine::add_slot(const mm::Bank& bank) {
  std::lock_guard hold(slots_lock_);
  auto slot = std::ranges::find(slots_, nullptr);
  if (slot == slots_.end()) {
    if (slots_.size() == max_slots_) return mm::fail(mm::Error::NoMemory);
    slot = slots_.insert(slots_.end(), nullptr);
  }
  const auto number = unsigned(slot - slots_.begin());
  if (kernel_.installed() && live_.load(std::memory_order_seq_cst) == 0) {
    late_.push_back(number);
    any_late_.store(true, std::memory_order_release);
  } else if (!set_slot(number, bank, true)) {
    return mm::fail(mm::Error::NoMemory);
  }
  *slot = &bank;
  return {};
}

Status KvmMachine::settle_slots() {
  if (!any_late_.load(std::memory_order_acquire)) return {};
  std::lock_guard hold(slots_lock_);
  while (!late_.empty()) {
    const mm::Bank& bank = *slots_[late_.back()];
    if (!set_slot(late_.back(), bank, true))
      return failure(fmt::format("KVM cannot give the guest another {} MiB of memory: {}", bank.size() >> 20, std::strerror(errno)));
    late_.pop_back();
  }
  any_late_.store(false, std::memory_order_release);
  return {};
}

void KvmMachine::bank_removed(const mm::Bank& bank) {
  std::lock_guard hold(slots_lock_);
  auto slot = std::ranges::find(slots_, &bank);
  if (slot == slots_.end()) return;
  if (std::erase(late_, unsigned(slot - slots_.begin())) > 0) {
    *slot = nullptr;
    return;
  }
  // If KVM cannot delete the slot (it may be out of memory), its number stays taken: reusing it would fail.
  if (set_slot(unsigned(slot - slots_.begin()), bank, false)) *slot = nullptr;
}

// --- vCPUs ---

Status KvmMachine::attach(mm::AddressSpace& space) {
  if (auto ok = kernel_.install(space); !ok) return ok;
  return host_clocks_ ? show_host_vdso() : Status{};
}

Status KvmMachine::make_vcpu() {
  auto vcpu = create_vcpu();
  if (!vcpu) return std::unexpected(vcpu.error());
  std::lock_guard hold(vcpus_lock_);
  free_.push_back(*vcpu);
  return {};
}

Status KvmMachine::warm_up() {
  if (auto ok = settle_slots(); !ok) return ok;
  auto vcpu = create_vcpu();
  if (!vcpu) return std::unexpected(vcpu.error());
  if (auto ok = (*vcpu)->warm_up(); !ok) return ok;
  std::lock_guard hold(vcpus_lock_);
  free_.push_back(*vcpu);
  return {};
}

std::expected<KvmVcpu*, Failure> KvmMachine::create_vcpu() {
  if (!kernel_.installed()) return failure("the machine has no address space yet");
  // Creating one takes frames, so the address-space lock; whoever flushes holds that and takes vcpus_lock_.
  std::lock_guard one_at_a_time(creating_lock_);
  if (vcpus_.size() >= max_vcpus_) return failure(fmt::format("this host's KVM gives a machine at most {} virtual CPUs", max_vcpus_));
  auto created = KvmVcpu::create(*this, unsigned(vcpus_.size()));
  if (!created) return std::unexpected(created.error());
  std::lock_guard hold(vcpus_lock_);
  return vcpus_.emplace_back(std::move(*created)).get();
}

std::expected<Vcpu*, Failure> KvmMachine::acquire_vcpu() {
  KvmVcpu* vcpu = nullptr;
  {
    std::lock_guard hold(vcpus_lock_);
    if (!free_.empty()) {
      vcpu = free_.back();
      free_.pop_back();
    }
  }
  if (!vcpu) {
    auto created = create_vcpu();
    if (!created) return std::unexpected(created.error());
    vcpu = *created;
  }
  vcpu->recycle();
  // The only vCPU so far may be in its stub, doing touches that the new one must not overtake.
  if (live_.fetch_add(1, std::memory_order_seq_cst) == 1 &&
      flush_.settled.load(std::memory_order_acquire) != flush_.generation.load(std::memory_order_seq_cst))
    expel(~0ull);
  return vcpu;
}

void KvmMachine::release_vcpu(Vcpu* vcpu) {
  std::lock_guard hold(vcpus_lock_);
  live_.fetch_sub(1, std::memory_order_seq_cst);
  free_.push_back(static_cast<KvmVcpu*>(vcpu));
}

Machine::Totals KvmMachine::totals() const {
  Totals t{};
  for_each_vcpu([&](const KvmVcpu& v) { t.add(v.counters()); });
  return t;
}

}  // namespace kvm
}  // namespace ramet::vmm
