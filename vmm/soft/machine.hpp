// The software CPU: arm64 guests on a host with other processors. Guest code is translated into the VMM's own, so this
// machine isolates nobody: see README.md.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "guest-mm/thread_annotations.hpp"
#include "vmm/machine.hpp"
#include "vmm/soft/engine_pool.hpp"

namespace ramet::vmm::soft {

class SoftVcpu;

class SoftMachine final : public Machine {
 public:
  // `engines`: the family's. Errors: this program has none, see provide_soft_engines().
  static std::expected<std::unique_ptr<SoftMachine>, Failure> create(std::shared_ptr<EnginePool> engines);
  ~SoftMachine() override;

  // mm::BankObserver: banks are where the VMM has them.
  mm::Result<> bank_added(const mm::Bank&) override { return {}; }
  void bank_removed(const mm::Bank&) override {}

  // mm::Tlb
  void flush(const mm::FlushRequest&) override RAMET_EXCLUDES(vcpus_lock_);
  void flush_relaxed(const mm::FlushRequest&) override {}  // engines look again where what they kept allows too little
  void exec_sync(mm::Gpa first, std::uint64_t bytes) override RAMET_EXCLUDES(vcpus_lock_);
  bool needs_exec_sync() const override { return true; }

  Needs needs() const override { return {.format = mm::Format::Arm64Stage1}; }
  Status attach(mm::AddressSpace& space) override {
    space_ = &space;
    return {};
  }
  Status make_vcpu() override { return engines_->prepare(); }
  Status warm_up() override { return engines_->prepare(); }
  bool slow_to_make() const override { return true; }
  void will_run(std::string_view program) override RAMET_EXCLUDES(vcpus_lock_);
  std::expected<Vcpu*, Failure> acquire_vcpu() override RAMET_EXCLUDES(vcpus_lock_);
  void release_vcpu(Vcpu*) override RAMET_EXCLUDES(vcpus_lock_);
  Status renew() override RAMET_EXCLUDES(vcpus_lock_);
  const arch::GuestAbi& abi() const override;
  std::span<const std::byte> vdso_image() const override;
  const Features& features() const override;
  CodePlaces code_places() const override { return engines_->places(); }
  Totals totals() const override RAMET_EXCLUDES(vcpus_lock_);

 private:
  friend class SoftVcpu;
  explicit SoftMachine(std::shared_ptr<EnginePool> engines);
  // IC IVAU: all vCPUs drop code of that line before any runs on that has some.
  void maintain(mm::Gva address) RAMET_EXCLUDES(vcpus_lock_);
  // Likewise, of a part of a frame.
  void drop_code(const CodePiece&) RAMET_EXCLUDES(vcpus_lock_);
  void give_back_engines() RAMET_REQUIRES(vcpus_lock_);

  const std::shared_ptr<EnginePool> engines_;
  mm::AddressSpace* space_ = nullptr;  // of attach()
  mutable Mutex vcpus_lock_;  // order: vmm/README.md
  std::deque<std::unique_ptr<SoftVcpu>> vcpus_ RAMET_GUARDED_BY(vcpus_lock_);  // grows only, but for renew()
  std::vector<SoftVcpu*> free_ RAMET_GUARDED_BY(vcpus_lock_);
  EnginePool::Program program_ RAMET_GUARDED_BY(vcpus_lock_) = EnginePool::kNone;
  Totals past_ RAMET_GUARDED_BY(vcpus_lock_){};  // of vCPUs that renew() has given up
};

}  // namespace ramet::vmm::soft
