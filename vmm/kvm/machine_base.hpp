// What the KVM machines of all hosts have in common: the VM, its memslots and its virtual CPUs.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <utility>

#include "vmm/kvm/device.hpp"
#include "vmm/kvm/kernel_half.hpp"
#include "vmm/kvm/kick.hpp"
#include "vmm/kvm/slots.hpp"
#include "vmm/kvm/vcpu_pool.hpp"
#include "vmm/machine.hpp"

namespace ramet::vmm::kvm {

// V: this host's virtual CPU, complete where the machine's constructor and destructor are defined.
template <class V>
class MachineBase : public Machine {
 public:
  // mm::BankObserver: one memslot a bank. For banks added between attach() and the first vCPU, such as all that a child
  // inherits, they are made when that vCPU enters: that takes the child's time, not its parent's.
  mm::Result<> bank_added(const mm::Bank& bank) override {
    return slots_.add(bank, kernel_.installed() && live_.load(std::memory_order_seq_cst) == 0);
  }
  void bank_removed(const mm::Bank& bank) override { slots_.remove(bank); }

  Status make_vcpu() override {
    auto vcpu = new_vcpu();
    if (!vcpu) return std::unexpected(vcpu.error());
    vcpus_.put(*vcpu);
    return {};
  }
  Status warm_up() override {
    if (auto ok = slots_.tell_late(); !ok) return ok;
    auto vcpu = new_vcpu();
    if (!vcpu) return std::unexpected(vcpu.error());
    if (auto ok = (*vcpu)->warm_up(); !ok) return ok;
    vcpus_.put(*vcpu);
    return {};
  }
  std::expected<Vcpu*, Failure> acquire_vcpu() override {
    V* vcpu = vcpus_.take();
    if (!vcpu) {
      auto made = new_vcpu();
      if (!made) return std::unexpected(made.error());
      vcpu = *made;
    }
    vcpu->recycle();
    vcpus_.use(vcpu);
    came_into_use(live_.fetch_add(1, std::memory_order_seq_cst));
    return vcpu;
  }
  void release_vcpu(Vcpu* vcpu) override {
    live_.fetch_sub(1, std::memory_order_seq_cst);
    vcpus_.put(static_cast<V*>(vcpu));
  }
  Totals totals() const override { return vcpus_.totals(); }

 protected:
  // `reserved`: memslots that are not for banks.
  MachineBase(Device device, HostFd vm, unsigned reserved)
      : device_(std::move(device)), vm_(std::move(vm)),
        max_slots_(unsigned(std::max(device_.capability(KVM_CAP_NR_MEMSLOTS), 32)) - reserved), slots_(vm_, max_slots_),
        vcpus_(unsigned(std::max(device_.capability(KVM_CAP_MAX_VCPUS), device_.capability(KVM_CAP_NR_VCPUS)))) {}

  // Called after attach() only.
  virtual std::expected<std::unique_ptr<V>, Failure> create_vcpu(unsigned id) = 0;
  // The vCPU that the calling thread has run last, and no other thread since: it is idle. Null: there is none.
  V* callers_vcpu() const {
    V* const vcpu = vcpus_.last_run_by_caller();
    return vcpu && vcpu->last_run_by(prepare_thread_for_kicks()) ? vcpu : nullptr;
  }
  // Whether some vCPU is in the guest with entries older than that generation, to which the machine's has been
  // advanced.
  bool in_use_older_than(std::uint64_t generation) const {
    if (const V* only = vcpus_.only()) return only->older_than(generation);
    return vcpus_.any([&](const V& v) { return v.older_than(generation); });
  }
  // Interrupts those vCPUs, and waits until each has left the guest. A vCPU thread that waits for a lock which the
  // caller holds is not in the guest, and so never waited for.
  void expel_older_than(std::uint64_t generation) const {
    vcpus_.for_each([&](V& v) {
      if (v.older_than(generation)) v.interrupt_guest();
    });
    vcpus_.for_each([&](V& v) { v.wait_outside(generation); });
  }
  // Called when acquire_vcpu() hands out a vCPU; `before`: how many were in use.
  virtual void came_into_use(unsigned before) { (void)before; }

  Device device_;
  HostFd vm_;
  KernelHalf kernel_;
  const unsigned max_slots_;  // for banks
  Slots slots_;
  VcpuPool<V> vcpus_;
  // vCPUs in use. seq_cst: pairs with KvmVcpu::announce() of x86-64, which lets touches ride along only if it is 1.
  std::atomic<unsigned> live_{0};

 private:
  std::expected<V*, Failure> new_vcpu() {
    if (!kernel_.installed()) return failure("the machine has no address space yet");
    return vcpus_.make([this](unsigned id) { return create_vcpu(id); });
  }
};

}  // namespace ramet::vmm::kvm
