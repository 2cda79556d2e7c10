// KvmVcpu: one virtual CPU of an arm64 host. Between two runs it stands in the trap stub (arch/arm64/host/stub.S)
// behind the store that left, all of user code's registers are in its page, and regs_ is what the next run resumes
// with.
//
// An interruption finds the CPU anywhere. It then gets an interrupt of its own (KVM_IRQ_LINE) and runs on: the stub,
// where interrupts are masked, comes to its end, and user code executes no further instruction. So it does not matter
// where the CPU was.
#pragma once

#include <memory>

#include "arch/arm64/guest_abi.hpp"
#include "arch/arm64/host/stub.hpp"
#include "vmm/kvm/arm64/machine.hpp"
#include "vmm/kvm/vcpu_base.hpp"

namespace ramet::vmm::kvm {

class KvmVcpu final : public VcpuBase {
 public:
  static std::expected<std::unique_ptr<KvmVcpu>, Failure> create(KvmMachine&, unsigned id);

  UserRegs& regs() override { return regs_; }
  void spurious_fault() override;
  void set_base(unsigned, std::uint64_t value) override { context().thread = value; }
  std::uint64_t base(unsigned) override { return context().thread; }
  Status get_fp(FpState&) override RAMET_EXCLUDES(busy_);
  Status set_fp(const FpState&) override;
  void copy_fp(const FpState& fp) override { put_fp(fp); }
  void reset_fp() override;

  // --- for KvmMachine ---
  // Makes the vCPU what acquire_vcpu() promises.
  void recycle() RAMET_EXCLUDES(busy_);
  // Makes the TLBI that is due, for all processors. False: this vCPU is running, has never run, or KVM failed.
  bool try_flush() RAMET_EXCLUDES(busy_);
  // Does all that the first entry would have to before user code.
  Status warm_up() RAMET_EXCLUDES(busy_);
  // The next entry drops those translations. Called by the thread that uses the vCPU.
  void drop_translations(const mm::FlushRequest&);

 private:
  KvmVcpu(KvmMachine& machine, unsigned id) : machine_(machine), id_(id) { drops_.add_all(); }
  using Context = arch::arm64::stub::Context;
  Context& context() const { return *reinterpret_cast<Context*>(page_.host.data()); }

  // vcpu.cpp: run()'s steps
  Exit enter_guest() override RAMET_REQUIRES(busy_);
  Exit execute() RAMET_REQUIRES(busy_);
  Exit decode();                    // a synchronous exception of user code
  // Runs the stub, which carries out the commands and enters no user code. Errors: KVM_RUN's.
  Status run_stub(std::uint64_t commands, const Drops& drops = {}) RAMET_REQUIRES(busy_);
  bool at_hole() const;             // KVM_RUN returned because of the stub's store
  std::uint64_t stored() const;     // what it stored
  Status interrupt(bool raised);    // the vCPU's own interrupt line

  // state.cpp
  Status prepare() RAMET_REQUIRES(busy_);
  Status load() RAMET_REQUIRES(busy_);  // system registers, and into the stub
  Status set(std::uint64_t reg, std::uint64_t value);
  void put_fp(const FpState&);

  // flush.cpp
  void announce();                  // publishes that user code is about to run
  void lay_out_entry();
  void entered();                   // user code has run: what was due at entry is done

  KvmMachine& machine_;
  const unsigned id_;
  KernelHalf::VcpuPage page_;  // the commands and ranges in it: written with busy_ held
  bool loaded_ RAMET_GUARDED_BY(busy_) = false;  // its system registers are loaded, and it stands in the stub
  // From here on: of the thread that uses the vCPU. A flush that borrows the vCPU while it is idle (try_flush()) uses
  // none of these.
  UserRegs regs_ = arch::arm64::kGuestAbi.initial_registers();
  enum class Fp : std::uint8_t { Cpu, Both, Page };  // where the vector registers are up to date
  Fp fp_ = Fp::Page;
  std::uint64_t entry_generation_ = 0;  // of the entry under way
  Drops drops_;  // what the next entry has to drop
  std::uint64_t relaxed_seen_ = 0;  // Tlb::generation() at the last drop for a relaxed flush
};

}  // namespace ramet::vmm::kvm
