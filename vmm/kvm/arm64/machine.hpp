// KvmMachine: one VM of an arm64 host, its memslots, its vCPUs, and what its strict flushes are made of.
#pragma once

#include <atomic>
#include <memory>

#include "arch/arm64/guest_abi.hpp"
#include "arch/arm64/host/cpu_state.hpp"
#include "arch/arm64/vdso.hpp"
#include "arch/exec_sync.hpp"
#include "guest-mm/thread_annotations.hpp"
#include "vmm/kvm/arm64/drops.hpp"
#include "vmm/kvm/generations.hpp"
#include "vmm/kvm/machine_base.hpp"

namespace ramet::vmm::kvm {

class KvmVcpu;

// What KVM gives its guests here. Asked once a process: it is the same for every VM.
struct CpuModel {
  Machine::Features features;
  kvm_vcpu_init init = {};
  std::uint64_t memory_model0 = 0;     // the guest's ID_AA64MMFR0_EL1
  arch::arm64::EntryUpdates updates;   // by the processor, in page-table entries

  // Errors: KVM refuses; the host's processors cannot serve.
  static std::expected<const CpuModel*, Failure> get(const Device&);
};

// How a strict flush works. A vCPU may use an old entry only while it runs user code; so a flush makes sure that from
// its return on none does before something has dropped the old ones, after the entries were written. What drops them is
// TLBI, which the stub makes on one vCPU for the processors of all:
//   - flush() notes what is to be dropped and advances `generation`. Where no vCPU is in user code, that is all: the
//     next one that enters finds that `settled` is behind, and makes the TLBI on its way (flush.cpp);
//   - else the caller's own vCPU, which is idle, makes it at once, and the others run on;
//   - else the vCPUs in user code are interrupted, and waited for until they have left.
struct FlushState : Generations {
  std::uint64_t advance(const mm::FlushRequest&) RAMET_EXCLUDES(lock_);  // returns the new generation
  // What is not settled yet, or more; none(): all is settled.
  Drops due() RAMET_EXCLUDES(lock_);

 private:
  Mutex lock_;
  Drops due_ RAMET_GUARDED_BY(lock_);
  std::uint64_t newest_ RAMET_GUARDED_BY(lock_) = 1;  // the last generation that due_ has something of
};

class KvmMachine final : public MachineBase<KvmVcpu> {
 public:
  // `updates`: which changes of entries by the processor are switched on, if it can make them.
  static std::expected<std::unique_ptr<KvmMachine>, Failure> create(const std::string& device,
                                                                    arch::arm64::EntryUpdates updates = {true, true});
  ~KvmMachine() override;

  // mm::Tlb
  void flush(const mm::FlushRequest&) override;
  void flush_relaxed(const mm::FlushRequest&) override;
  void exec_sync(mm::Gpa first, std::uint64_t bytes) override { memory_->exec_sync(first, bytes); }
  bool needs_exec_sync() const override { return arch::exec_sync_needed(); }

  Needs needs() const override { return {.format = mm::Format::Arm64Stage1}; }
  Status attach(mm::AddressSpace&) override;
  const arch::GuestAbi& abi() const override { return arch::arm64::kGuestAbi; }
  std::span<const std::byte> vdso_image() const override { return arch::arm64::vdso_image(); }
  const Features& features() const override { return model_.features; }

 private:
  friend class KvmVcpu;
  KvmMachine(Device device, HostFd vm, const CpuModel& model, arch::arm64::EntryUpdates updates);
  std::expected<std::unique_ptr<KvmVcpu>, Failure> create_vcpu(unsigned id) override;

  const CpuModel& model_;
  const arch::arm64::EntryUpdates updates_;
  const mm::Memory* memory_ = nullptr;  // the address space's; written by attach()
  FlushState flush_;
};

}  // namespace ramet::vmm::kvm
