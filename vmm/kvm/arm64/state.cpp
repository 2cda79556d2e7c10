// KvmVcpu: creation, and the registers that do not change with every exit.
#include <fmt/format.h>

#include <cstring>

#include "vmm/kvm/arm64/vcpu.hpp"

namespace ramet::vmm::kvm {

namespace arm64 = arch::arm64;
namespace stub = arch::arm64::stub;

constexpr std::uint64_t kCore = KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE;

std::expected<std::unique_ptr<KvmVcpu>, Failure> KvmVcpu::create(KvmMachine& machine, unsigned id) {
  auto v = std::unique_ptr<KvmVcpu>(new KvmVcpu(machine, id));
  if (auto ok = v->open(machine.vm_, machine.device_, id); !ok) return std::unexpected(ok.error());
  kvm_vcpu_init init = machine.model_.init;
  if (int r = call(v->fd_, KVM_ARM_VCPU_INIT, &init); r < 0)
    return failure(fmt::format("KVM_ARM_VCPU_INIT: {}", std::strerror(-r)));
  auto page = machine.kernel_.allocate_vcpu_page();
  if (!page) return std::unexpected(page.error());
  v->page_ = *page;
  return v;
}

void KvmVcpu::recycle() {
  LockGuard hold(busy_);
  regs_ = arm64::kGuestAbi.initial_registers();
  context().thread = 0;
  reset_fp();
  std::atomic_ref(run_->immediate_exit).store(0, std::memory_order_seq_cst);
  kicked_.store(false, std::memory_order_relaxed);
}

Status KvmVcpu::warm_up() {
  LockGuard hold(busy_);
  if (auto ok = prepare(); !ok) return ok;
  return run_stub(stub::kFlush);
}

Status KvmVcpu::prepare() {
  if (auto ok = machine_.slots_.tell_late(); !ok) return ok;
  return loaded_ ? Status{} : load();
}

Status KvmVcpu::set(std::uint64_t reg, std::uint64_t value) {
  kvm_one_reg one = {.id = reg, .addr = reinterpret_cast<std::uint64_t>(&value)};
  if (int r = call(fd_, KVM_SET_ONE_REG, &one); r < 0)
    return failure(fmt::format("KVM refuses register {:#x}: {}", reg, std::strerror(-r)));
  return {};
}

Status KvmVcpu::load() {
  // KVM still has to complete the store that left the guest, which moves the program counter.
  if (run_->exit_reason == KVM_EXIT_MMIO) {
    std::atomic_ref(run_->immediate_exit).store(1, std::memory_order_seq_cst);
    const int error = run_kvm();
    std::atomic_ref(run_->immediate_exit).store(0, std::memory_order_seq_cst);
    if (error != EINTR) return failure("KVM does not complete an access of the guest");
    if (auto ok = interrupt(false); !ok) return ok;  // it may have been given up with its interrupt raised
  }
  for (const arm64::SystemValue& r : arm64::system_registers(machine_.kernel_.root(), KernelHalf::kStubPage,
                                                             machine_.model_.memory_model0, machine_.updates_))
    if (auto ok = set(ARM64_SYS_REG(r.which.op0, r.which.op1, r.which.crn, r.which.crm, r.which.op2), r.value); !ok)
      return ok;
  if (auto ok = set(kCore | KVM_REG_ARM_CORE_REG(sp_el1), page_.address); !ok) return ok;
  if (auto ok = set(kCore | KVM_REG_ARM_CORE_REG(regs.pstate), arm64::kStubPstate); !ok) return ok;
  if (auto ok = set(kCore | KVM_REG_ARM_CORE_REG(regs.pc), KernelHalf::kStubPage + stub::resume()); !ok) return ok;
  loaded_ = true;
  return {};
}

// --- vector registers ---

void KvmVcpu::put_fp(const FpState& fp) {
  std::memcpy(&context().fp, fp.area.data(), sizeof(arm64::FpSimd));
  fp_ = Fp::Page;
}

Status KvmVcpu::set_fp(const FpState& fp) {
  put_fp(fp);
  return {};
}

void KvmVcpu::reset_fp() {
  FpState fp;
  arm64::reset(fp);
  put_fp(fp);
}

Status KvmVcpu::get_fp(FpState& fp) {
  if (fp_ == Fp::Cpu) {
    LockGuard hold(busy_);
    if (auto ok = prepare(); !ok) return ok;
    if (auto ok = run_stub(stub::kSaveFp); !ok) return ok;
    fp_ = Fp::Both;
  }
  fp = {};
  std::memcpy(fp.area.data(), &context().fp, sizeof(arm64::FpSimd));
  return {};
}

}  // namespace ramet::vmm::kvm
