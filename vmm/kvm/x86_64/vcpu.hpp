// KvmVcpu: one virtual CPU. Between two runs it stands in ring 0 with nothing on its stack, and regs_ holds
// all of user code's registers; or, after an interruption, it stands where user code was (in_user_).
#pragma once

#include <chrono>
#include <optional>

#include "arch/x86_64/guest_abi.hpp"
#include "arch/x86_64/host/cpu_state.hpp"
#include "vmm/kvm/kernel_half.hpp"
#include "vmm/kvm/vcpu_base.hpp"
#include "vmm/kvm/x86_64/machine.hpp"

namespace ramet::vmm::kvm {

class KvmVcpu final : public VcpuBase {
 public:
  static std::expected<std::unique_ptr<KvmVcpu>, Failure> create(KvmMachine&, unsigned id);

  UserRegs& regs() override { return regs_; }
  void spurious_fault() override;
  // Bases have to be canonical, as arch_prctl(2) demands; run() returns Broken for others.
  void set_base(unsigned n, std::uint64_t) override RAMET_EXCLUDES(busy_);
  std::uint64_t base(unsigned n) override RAMET_EXCLUDES(busy_);
  Status get_fp(FpState&) override RAMET_EXCLUDES(busy_);
  Status set_fp(const FpState&) override RAMET_EXCLUDES(busy_);
  void copy_fp(const FpState&) override RAMET_EXCLUDES(busy_);
  void reset_fp() override RAMET_EXCLUDES(busy_);

  // --- for KvmMachine ---
  // Makes the vCPU what acquire_vcpu() promises; nothing to do for one that no thread has had yet.
  void recycle() RAMET_EXCLUDES(busy_);
  // Does all pending touches on this vCPU, if it is not running. False: it is, or KVM failed.
  bool try_touch_pending() RAMET_EXCLUDES(busy_);
  // Sets its time-stamp counter to the host's; `slept`: how long the host has been suspended so far.
  Status set_counter(std::chrono::nanoseconds slept) RAMET_EXCLUDES(busy_);
  // As run(), but goes on through kicks and counts nothing.
  Exit try_running() RAMET_EXCLUDES(busy_);
  // Called after try_running() of code that has changed nothing but regs(): there is nothing left for recycle() to do.
  void changed_registers_only() RAMET_EXCLUDES(busy_);
  // Does all that the first entry would have to before user code, pending touches included.
  Status warm_up() RAMET_EXCLUDES(busy_);
  // The next entry drops all translations. Called by the thread that uses the vCPU.
  void drop_translations();

 private:
  explicit KvmVcpu(KvmMachine& machine) : machine_(machine) {}

  // vcpu.cpp: run()'s steps
  Exit enter_guest() override RAMET_REQUIRES(busy_);
  Status prepare() RAMET_REQUIRES(busy_);
  Exit execute() RAMET_REQUIRES(busy_);
  void decode_trap(Exit&) RAMET_REQUIRES(busy_);
  void become_signal(Exit&) RAMET_REQUIRES(busy_);  // of its trap
  Exit page_fault(std::uint64_t address, std::uint64_t error);
  Exit syscall_exit(bool by_fault);
  enum class Where : std::uint8_t { User, Entering, Leaving, Unknown };
  Where where();  // after KVM_RUN was interrupted
  void take_user_registers();

  // state.cpp
  Status load_ring0() RAMET_REQUIRES(busy_);  // control registers and segments
  Status load_bases() RAMET_REQUIRES(busy_);
  void read_bases_locked() RAMET_REQUIRES(busy_);  // bases_ from the CPU, unless they are newer
  Status load_fp(const FpState&) RAMET_REQUIRES(busy_);
  Status get_fp_locked(FpState&) RAMET_REQUIRES(busy_);
  void reset_fp_locked() RAMET_REQUIRES(busy_);

  // host_clock.cpp
  // At the host's, if the machine wants that and ring 3 is not native.
  Status keep_counter() RAMET_REQUIRES(busy_);
  Status set_counter_locked(std::chrono::nanoseconds slept) RAMET_REQUIRES(busy_);

  // flush.cpp
  // Publishes that user code is about to run; does touches first.
  Status announce() RAMET_REQUIRES(busy_);
  void lay_out_entry() RAMET_REQUIRES(busy_);
  void entered();  // user code has run: what was due at entry is done
  void not_entered();
  Status touch_pending() RAMET_REQUIRES(busy_);  // all of it, on behalf of all vCPUs
  Status touch(std::span<const mm::Gpa>) RAMET_REQUIRES(busy_);

  int run_kvm() {  // leaves no earlier run's reason behind
    run_->exit_reason = KVM_EXIT_UNKNOWN;
    return VcpuBase::run_kvm();
  }
  kvm_regs& sync() { return run_->s.regs.regs; }
  void resume_at(std::uint64_t stub_offset, std::uint64_t stack);
  std::uint64_t stack_top() const { return page_.address + page_.host.size(); }
  std::uint64_t* stack_word(std::uint64_t address) const;

  KvmMachine& machine_;
  KernelHalf::VcpuPage page_;
  UserRegs regs_ = arch::x86_64::kGuestAbi.initial_registers();  // of the thread that uses the vCPU

  // What run() and a flush that borrows the idle vCPU (try_touch_pending()) load. in_user_ is set only with loaded_;
  // untouched_ only without in_user_, bases_changed_ and fp_copied_. prepare() sets loaded_, clears bases_changed_ and
  // fp_copied_, and leaves in_user_ as it is.
  arch::Bases bases_ RAMET_GUARDED_BY(busy_){};
  bool bases_changed_ RAMET_GUARDED_BY(busy_) = false;  // bases_ are newer than the CPU's
  bool loaded_ RAMET_GUARDED_BY(busy_) = false;  // prepare() has loaded the registers that it loads once
  // How long the host had slept when the counter was set; nullopt: it was not.
  std::optional<std::chrono::nanoseconds> counter_set_ RAMET_GUARDED_BY(busy_);
  bool untouched_ RAMET_GUARDED_BY(busy_) = true;  // as acquire_vcpu() promises: recycle() has nothing to do
  std::unique_ptr<FpState> fp_copied_ RAMET_GUARDED_BY(busy_);  // for prepare() to load
  Status fp_reset_ RAMET_GUARDED_BY(busy_);  // how the last reset_fp() went; run() reports it
  bool in_user_ RAMET_GUARDED_BY(busy_) = false;  // the CPU stands in ring 3, at regs_

  // Of the thread that uses the vCPU: a flush that borrows it uses none of these.
  std::uint64_t entry_generation_ = 0;  // of the entry under way
  std::uint64_t reloaded_ = 0;  // generation of the last CR3 reload
  std::uint64_t relaxed_seen_ = 0;  // Tlb::generation() at the last drop for a relaxed flush
  std::vector<mm::Gpa> riding_;  // touches that this entry does on its way into user code
};

}  // namespace ramet::vmm::kvm
