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
  void flush(const mm::FlushRequest&) override;
  void flush_relaxed(const mm::FlushRequest&) override {}  // engines look again where what they kept allows too little
  void exec_sync(mm::Gpa first, std::uint64_t bytes) override;
  bool needs_exec_sync() const override { return true; }

  Needs needs() const override { return {.format = mm::Format::Arm64Stage1}; }
  Status attach(mm::AddressSpace& space) override {
    space_ = &space;
    return {};
  }
  Status make_vcpu() override { return engines_->prepare(); }
  Status warm_up() override { return engines_->prepare(); }
  bool slow_to_make() const override { return true; }
  void will_run(std::string_view program) override;
  std::expected<Vcpu*, Failure> acquire_vcpu() override;
  void release_vcpu(Vcpu*) override;
  Status renew() override;
  const arch::GuestAbi& abi() const override;
  std::span<const std::byte> vdso_image() const override;
  const Features& features() const override;
  CodePlaces code_places() const override { return engines_->places(); }
  Totals totals() const override;

 private:
  friend class SoftVcpu;
  explicit SoftMachine(std::shared_ptr<EnginePool> engines);
  // IC IVAU: all vCPUs drop code of that line before any runs on that has some.
  void maintain(mm::Gva address);
  // Likewise, of a part of a frame.
  void drop_code(const CodePiece&);
  void give_back_engines() RAMET_REQUIRES(vcpus_lock_);

  const std::shared_ptr<EnginePool> engines_;
  mm::AddressSpace* space_ = nullptr;  // of attach()
  mutable Mutex vcpus_lock_;  // a leaf
  std::deque<std::unique_ptr<SoftVcpu>> vcpus_ RAMET_GUARDED_BY(vcpus_lock_);  // grows only, but for renew()
  std::vector<SoftVcpu*> free_ RAMET_GUARDED_BY(vcpus_lock_);
  EnginePool::Program program_ = EnginePool::kNone;
  Totals past_{};  // of vCPUs that renew() has given up
};

}  // namespace ramet::vmm::soft
