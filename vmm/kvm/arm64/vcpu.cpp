// KvmVcpu: running user code.
#include "vmm/kvm/arm64/vcpu.hpp"

#include <fmt/format.h>

#include <cstring>

#include "arch/arm64/fault_signal.hpp"
#include "vmm/arm64_exception.hpp"
#include "vmm/kvm/exit_reason.hpp"

namespace ramet::vmm::kvm {

namespace arm64 = arch::arm64;
namespace stub = arch::arm64::stub;

Exit KvmVcpu::enter_guest() {
  machine_.vcpus_.run_by_caller(this);
  if (auto ok = prepare(); !ok) return broken(ok.error().message);
  announce();
  if (kicked_.load(std::memory_order_seq_cst)) return kicked();  // since take_kick(); pairs with kick()
  lay_out_entry();
  Exit exit = execute();
  if (exit.kind == Exit::Kind::Broken) loaded_ = false;
  return exit;
}

// Repeats KVM_RUN until there is an exit for the caller.
Exit KvmVcpu::execute() {
  bool interrupted = false, unreachable = false;
  for (;;) {
    const int error = run_kvm();
    if (error == 0) break;
    if (error != EINTR && error != EFAULT) return broken(fmt::format("KVM_RUN: {}", std::strerror(error)));
    if (error == EFAULT && std::exchange(unreachable, true))
      return broken("KVM cannot reach the memory of the trap stub");
    std::atomic_ref(run_->immediate_exit).store(0, std::memory_order_seq_cst);
    if (!std::exchange(interrupted, true))
      if (auto ok = interrupt(true); !ok) return broken(ok.error().message);
  }
  if (interrupted)
    if (auto ok = interrupt(false); !ok) return broken(ok.error().message);
  if (!at_hole()) return broken(describe_exit(*run_));
  entered();
  switch (stored()) {
    case STUB_VECTOR_SYNCHRONOUS:
      // The exit that was under way comes first, the kick with the next run().
      if (interrupted) kicked_.store(true, std::memory_order_relaxed);
      return decode();
    case STUB_VECTOR_INTERRUPT: {
      if (!unreachable) return kicked();
      Exit exit;
      exit.kind = Exit::Kind::HostFault;
      exit.detail = describe_host_fault(*run_);
      return exit;
    }
    default:
      return broken(fmt::format("exception {} (syndrome {:#x}, address {:#x}) at {:#x}", stored(), context().esr,
                                context().far, context().regs[arm64::Pc]));
  }
}

Exit KvmVcpu::decode() {
  constexpr unsigned kClassWait = 0x01, kClassCall = 0x15;
  constexpr std::uint64_t kMaintenance = 1u << 8;  // of a data abort: by a cache operation, which is told as a write
  const std::uint64_t esr = context().esr, status = esr & arm64::kFaultStatus;
  const unsigned what = arm64::class_of(esr);
  const mm::Gva address = arm64::without_tag(context().far);
  Exit exit;
  switch (what) {
    case kClassCall: exit.kind = Exit::Kind::Syscall; return exit;
    case kClassWait:  // there is no event to wait for: execution goes on behind it, as on Linux
      regs_[arm64::Pc] += 4;
      return exit;
    case arm64::kClassFetch:
    case arm64::kClassData: {
      // Statuses 4 to 15, by level: no entry; one without access flag; one that does not allow it.
      if (status < 4 || status > 15) break;
      exit.kind = Exit::Kind::PageFault;
      exit.address = address;
      exit.present = status >= 8;
      const bool write = (esr & arm64::kWrite) != 0 && (esr & kMaintenance) == 0;
      exit.access = what == arm64::kClassFetch ? mm::Access::Execute : write ? mm::Access::Write : mm::Access::Read;
      exit.trap = what;
      exit.error = esr;
      return exit;
    }
    default: break;
  }
  return exception_of(esr, address, regs_[arm64::Pc], regs_[arm64::Sp]);
}

// --- KVM_RUN ---

Status KvmVcpu::run_stub(std::uint64_t commands, const Drops& drops) {
  drops.write_to(context());
  context().command = commands | stub::kReturn;
  for (;;) {
    const int error = run_kvm();
    if (error == 0) break;
    if (error != EINTR) return failure(fmt::format("trap stub: KVM_RUN: {}", std::strerror(error)));
    // The stub goes on where it was; the kick is answered by the next run() of this vCPU.
    std::atomic_ref(run_->immediate_exit).store(0, std::memory_order_seq_cst);
    kicked_.store(true, std::memory_order_seq_cst);
  }
  if (!at_hole() || stored() != STUB_RETURNED) return failure("trap stub: " + describe_exit(*run_));
  return {};
}

bool KvmVcpu::at_hole() const {
  return run_->exit_reason == KVM_EXIT_MMIO && run_->mmio.is_write != 0 && run_->mmio.len == 8 &&
         run_->mmio.phys_addr == KernelHalf::kHoleGpa;
}

std::uint64_t KvmVcpu::stored() const {
  std::uint64_t value;
  std::memcpy(&value, run_->mmio.data, sizeof value);
  return value;
}

Status KvmVcpu::interrupt(bool raised) {
  kvm_irq_level line = {};
  line.irq = (id_ >> 8) << KVM_ARM_IRQ_VCPU2_SHIFT | KVM_ARM_IRQ_TYPE_CPU << KVM_ARM_IRQ_TYPE_SHIFT |
             (id_ & KVM_ARM_IRQ_VCPU_MASK) << KVM_ARM_IRQ_VCPU_SHIFT | KVM_ARM_IRQ_CPU_IRQ;
  line.level = raised;
  if (int r = call(machine_.vm_, KVM_IRQ_LINE, &line); r < 0)
    return failure(fmt::format("KVM_IRQ_LINE: {}", std::strerror(-r)));
  return {};
}

}  // namespace ramet::vmm::kvm
