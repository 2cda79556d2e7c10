// The process machine: a guest is a confined process of the host, its vCPUs are threads there. No /dev/kvm, no
// privilege.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "arch/host_processor.hpp"
#include "guest-mm/thread_annotations.hpp"
#include "vmm/machine.hpp"
#include "vmm/process/child.hpp"
#include "vmm/process/mirror.hpp"

namespace ramet::vmm::process {

class ProcessVcpu;

class ProcessMachine final : public Machine {
 public:
  // See MachineChoice. Errors: as Child::create().
  static std::expected<std::unique_ptr<ProcessMachine>, Failure> create(bool hardened = false,
                                                                        std::size_t most_mappings = 0);
  ~ProcessMachine() override;

  // mm::BankObserver: banks are mapped where guest code touches them.
  mm::Result<> bank_added(const mm::Bank&) override { return {}; }
  void bank_removed(const mm::Bank&) override {}
  void files_closed() override RAMET_EXCLUDES(here_);

  // mm::Tlb
  void flush(const mm::FlushRequest&) override RAMET_EXCLUDES(here_);
  bool waits() const override { return true; }  // for the guest's process
  void flush_relaxed(const mm::FlushRequest&) override RAMET_EXCLUDES(here_);
  void exec_sync(mm::Gpa first, std::uint64_t bytes) override;
  bool needs_exec_sync() const override;

  Needs needs() const override { return {.files = true}; }
  Status attach(mm::AddressSpace&) override;
  Status make_vcpu() override RAMET_EXCLUDES(creating_lock_, vcpus_lock_);
  Status warm_up() override RAMET_EXCLUDES(creating_lock_, vcpus_lock_);
  std::vector<mm::Gva> touched() const override RAMET_EXCLUDES(here_);
  void expect(std::span<const mm::Gva>) override RAMET_EXCLUDES(here_);
  std::expected<Vcpu*, Failure> acquire_vcpu() override RAMET_EXCLUDES(creating_lock_, vcpus_lock_);
  void release_vcpu(Vcpu*) override RAMET_EXCLUDES(vcpus_lock_);
  Status renew() override RAMET_EXCLUDES(vcpus_lock_, here_);
  Status move_on() override RAMET_EXCLUDES(moving_lock_, creating_lock_, vcpus_lock_, here_);
  const arch::GuestAbi& abi() const override { return arch::host_abi(); }
  std::span<const std::byte> vdso_image() const override { return arch::host_vdso_image(); }
  const Features& features() const override;
  VdsoFunctions host_vdso() const override { return vdso_; }
  Totals totals() const override RAMET_EXCLUDES(vcpus_lock_, here_);

 private:
  friend class ProcessVcpu;
  ProcessMachine(std::unique_ptr<Child>, bool hardened, std::size_t capacity);
  std::expected<ProcessVcpu*, Failure> create_vcpu() RAMET_EXCLUDES(creating_lock_, vcpus_lock_);

  // Exclusive: to replace child_ and mirror_, in renew() and move_on(); shared: to use them. A vCPU in run() uses them
  // under its staying_ instead, and create_vcpu() under creating_lock_: move_on() takes these first. The order of locks
  // is in vmm/README.md.
  mutable SharedMutex here_;
  std::unique_ptr<Child> child_;
  mm::AddressSpace* space_ = nullptr;  // of attach()
  std::unique_ptr<Mirror> mirror_;  // from attach() on
  const VdsoFunctions vdso_;  // the same in each child
  const bool hardened_;  // each child is
  const std::size_t capacity_;  // the mirror's
  // move_on() is under way: vCPUs come out, and wait for moving_lock_. seq_cst: set before it looks which are inside;
  // each says that it is inside before it looks here.
  std::atomic<bool> moving_{false};
  Mutex moving_lock_;  // held by move_on()
  Mutex creating_lock_;  // only its holder adds to vcpus_
  mutable Mutex vcpus_lock_;
  std::deque<std::unique_ptr<ProcessVcpu>> vcpus_ RAMET_GUARDED_BY(vcpus_lock_);  // grows only
  std::vector<ProcessVcpu*> free_ RAMET_GUARDED_BY(vcpus_lock_);
  // Free as well, with a nice value that the host does not let be reset: given out when no other can be had.
  std::vector<ProcessVcpu*> nice_ RAMET_GUARDED_BY(vcpus_lock_);
  Totals past_ RAMET_GUARDED_BY(here_){};  // of processes that renew() and move_on() have replaced
};

}  // namespace ramet::vmm::process
