// KvmMachine: one VM of an x86-64 host, its memslots, its vCPUs, and what its strict flushes are made of.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "arch/x86_64/guest_abi.hpp"
#include "arch/x86_64/vdso.hpp"
#include "guest-mm/thread_annotations.hpp"
#include "vmm/kvm/generations.hpp"
#include "vmm/kvm/machine_base.hpp"
#include "vmm/kvm/x86_64/cpuid.hpp"

namespace ramet::vmm::kvm {

class KvmVcpu;

// How a strict flush works, on every host by the same code (flush.cpp).
//
// A vCPU may use an old entry only while it runs user code. So a flush makes sure that from its return on
// no vCPU runs user code without having done, after the entries were written, what drops the old ones:
//   touches: ring-0 stores into the changed table pages, for a KVM that shadows them; one vCPU's suffice;
//   reload:  of CR3, by each vCPU for itself.
// flush() advances `generation` and leaves the touches in `pending`; a vCPU that enters sees both and does
// them first. Only vCPUs that are in user code at that moment have to be interrupted and waited for.
struct FlushState : Generations {  // settled: all touches are done
  Mutex lock;
  std::vector<mm::Gpa> pending RAMET_GUARDED_BY(lock);   // table pages to be touched; a page may be listed twice
  Mutex touching;                                        // held while a vCPU touches on behalf of all
  // There was no memory for `pending`: no vCPU enters any more, so none uses an old entry. seq_cst: written before
  // `generation` is advanced, read after it by entering vCPUs.
  std::atomic<bool> stopped{false};

  // Never throws.
  void add(std::span<const mm::Gpa> tables) RAMET_REQUIRES(lock);
};

class KvmMachine final : public MachineBase<KvmVcpu> {
 public:
  static std::expected<std::unique_ptr<KvmMachine>, Failure> create(const std::string& device, bool host_clocks);
  ~KvmMachine() override;

  // mm::Tlb
  void flush(const mm::FlushRequest&) override;
  void flush_relaxed(const mm::FlushRequest&) override;

  Status attach(mm::AddressSpace&) override;
  const arch::GuestAbi& abi() const override { return arch::x86_64::kGuestAbi; }
  std::span<const std::byte> vdso_image() const override { return arch::x86_64::vdso_image(); }
  const Features& features() const override { return model_.features; }
  VdsoFunctions host_vdso() const override { return vdso_; }

 private:
  friend class KvmVcpu;
  KvmMachine(Device device, HostFd vm, const CpuModel& model, bool has_apic, bool host_clocks);
  // host_clock.cpp. Errors: no frames left, KVM refuses another slot or vCPU.
  Status show_host_vdso();
  Status show_host_vdso(bool try_it);  // `try_it`: with the lock of the trial held
  std::expected<bool, Failure> try_host_vdso();
  std::expected<std::unique_ptr<KvmVcpu>, Failure> create_vcpu(unsigned id) override;
  void came_into_use(unsigned before) override;
  // Does the touches for all vCPUs at once, on one that is not running. False: there is none.
  bool touch_for_all();

  const CpuModel& model_;
  const bool has_apic_;  // a local APIC in the kernel: vCPUs but the first then wait to be started
  const bool host_clocks_;  // guest programs are to read them
  FlushState flush_;
  // Written by attach().
  VdsoFunctions vdso_;                          // the host's, where user code can call them; all 0: it cannot
  bool hosts_counter_ = false;                  // vCPUs see the host's time-stamp counter
};

}  // namespace ramet::vmm::kvm
