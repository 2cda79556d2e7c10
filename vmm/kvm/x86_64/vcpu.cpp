// KvmVcpu::run(): into user code and back, and what came back.
#include "vmm/kvm/x86_64/vcpu.hpp"

#include <fmt/format.h>

#include <bit>
#include <cstddef>
#include <cstring>

#include "arch/x86_64/fault_signal.hpp"
#include "arch/x86_64/host/stub.hpp"
#include "vmm/kvm/exit_reason.hpp"

namespace ramet::vmm::kvm {

namespace x86 = arch::x86_64;
namespace stub = arch::x86_64::stub;

namespace {

// regs_ and KVM's structure list the same registers in the same order.
static_assert(sizeof(kvm_regs) == 8 * x86::kRegisterCount);
static_assert(offsetof(kvm_regs, rbp) == 8 * x86::Rbp && offsetof(kvm_regs, rsi) == 8 * x86::Rsi &&
              offsetof(kvm_regs, r8) == 8 * x86::R8 && offsetof(kvm_regs, r15) == 8 * x86::R15 &&
              offsetof(kvm_regs, rip) == 8 * x86::Rip && offsetof(kvm_regs, rflags) == 8 * x86::Rflags);

}  // namespace

Exit KvmVcpu::try_running() {
  const std::uint64_t flushes = counters_.flushes;
  Exit exit;
  do exit = enter();
  while (exit.kind == Exit::Kind::Kicked);
  counters_.flushes.add(flushes - counters_.flushes);
  return exit;
}

Exit KvmVcpu::enter_guest() {
  machine_.vcpus_.run_by_caller(this);
  Exit exit;
  if (auto ok = prepare(); !ok) {
    exit = broken(ok.error().message);
  } else if (!x86::is_canonical(regs_[x86::Rip])) {
    exit.trap = x86::kVectorProtection;  // as the processor does it at the first fetch
    become_signal(exit);
  } else if (auto announced = announce(); !announced) {
    exit = broken(announced.error().message);
  } else if (kicked_.load(std::memory_order_seq_cst)) {  // since take_kick(); pairs with kick()
    not_entered();
    exit = kicked();
  } else {
    lay_out_entry();
    exit = execute();
  }
  if (exit.kind == Exit::Kind::Broken) loaded_ = in_user_ = false;
  return exit;
}

// Repeats KVM_RUN until there is an exit for the caller.
Exit KvmVcpu::execute() {
  for (;;) {
    int error = run_kvm();
    if (error == 0) {
      entered();
      in_user_ = false;
      if (run_->exit_reason != KVM_EXIT_IO || run_->io.direction != KVM_EXIT_IO_OUT)
        return broken(describe_exit(*run_));
      Exit exit;
      unsigned port = run_->io.port;
      if (port == stub::kSyscallPort) {
        take_user_registers();
        return syscall_exit(false);
      }
      if (port >= stub::kVectors) return broken(describe_exit(*run_));
      exit.trap = port;
      decode_trap(exit);
      return exit;
    }
    if (error != EINTR && error != EFAULT) return broken(fmt::format("KVM_RUN: {}", std::strerror(error)));
    Where at = where();
    if (error == EFAULT) {
      if (at != Where::User) return broken("KVM cannot reach the memory of the trap stub");
      entered();
      take_user_registers();
      in_user_ = true;
      Exit exit;
      exit.kind = Exit::Kind::HostFault;
      exit.detail = describe_host_fault(*run_);
      return exit;
    }
    std::atomic_ref(run_->immediate_exit).store(0, std::memory_order_seq_cst);
    switch (at) {
      case Where::User:
        entered();
        take_user_registers();
        in_user_ = true;
        return kicked();
      case Where::Leaving:  // the entry has not come to its end; all of it is repeated
        not_entered();
        in_user_ = false;
        return kicked();
      case Where::Entering:  // a trap is under way: its exit comes first, the kick with the next run()
        kicked_.store(true, std::memory_order_relaxed);
        break;
      case Where::Unknown: return broken("KVM does not tell where the guest was interrupted");
    }
  }
}

// Where an interrupted KVM_RUN left the CPU. In the common case, an address of user code, one ioctl is enough: it tells
// of an exception that KVM has accepted but not yet delivered.
KvmVcpu::Where KvmVcpu::where() {
  std::uint64_t rip = sync().rip;
  if (rip - KernelHalf::kStubPage < stub::size()) {
    kvm_sregs s;
    if (call(fd_, KVM_GET_SREGS, &s) < 0) return Where::Unknown;
    std::uint64_t offset = rip - KernelHalf::kStubPage;
    if (s.cs.dpl == 0) return offset >= stub::flush() ? Where::Leaving : Where::Entering;
    // Ring 3 at LSTAR: SYSCALL got this far, or user code jumped here. Either way a page fault follows.
    if (offset == stub::syscall_entry()) return Where::Entering;
  }
  kvm_vcpu_events events;
  if (call(fd_, KVM_GET_VCPU_EVENTS, &events) < 0) return Where::Unknown;
  return events.exception.injected != 0 || events.exception.pending != 0 ? Where::Entering : Where::User;
}

void KvmVcpu::take_user_registers() { std::memcpy(regs_.word.data(), &sync(), sizeof(kvm_regs)); }

// The registers of SYSCALL: RCX and R11 hold what it saved.
Exit KvmVcpu::syscall_exit(bool by_fault) {
  regs_[x86::Rip] = regs_[x86::Rcx];
  regs_[x86::Rflags] = x86::resume_flags(regs_[x86::R11]);
  Exit exit;
  exit.kind = Exit::Kind::Syscall;
  exit.by_fault = by_fault;
  return exit;
}

// The registers are user code's, except for those in the frame and, at a page fault, RAX.
void KvmVcpu::decode_trap(Exit& exit) {
  take_user_registers();
  bool has_error = (x86::kErrorCodeVectors >> exit.trap & 1) != 0;
  bool is_page_fault = exit.trap == x86::kVectorPageFault;
  std::uint64_t frame_at = stack_top() - sizeof(x86::TrapFrame);
  if (sync().rsp != frame_at - 8 * (has_error + is_page_fault)) {
    exit = broken(fmt::format("exception {} arrived on another stack", exit.trap));
    return;
  }
  x86::TrapFrame frame;
  std::memcpy(&frame, stack_word(frame_at), sizeof frame);
  std::uint64_t cr2 = regs_[x86::Rax];
  if (is_page_fault) regs_[x86::Rax] = *stack_word(frame_at - 16);
  if (has_error) exit.error = *stack_word(frame_at - 8);
  if ((frame.cs & 3) != 3) {
    exit = broken(fmt::format("exception {} (error {:#x}, cr2 {:#x}) in the trap stub at {:#x}", exit.trap, exit.error,
                              is_page_fault ? cr2 : 0, frame.rip));
    return;
  }
  regs_[x86::Rip] = frame.rip;
  regs_[x86::Rflags] = frame.rflags;
  regs_[x86::Rsp] = frame.rsp;
  if (is_page_fault) {
    exit = page_fault(cr2, exit.error);
  } else if (exit.trap == 2 || exit.trap == 18) {
    exit = broken(exit.trap == 2 ? "the guest got a non-maskable interrupt" : "the guest got a machine check");
  } else {
    become_signal(exit);
  }
}

void KvmVcpu::become_signal(Exit& exit) {
  FpState fp;
  const bool have_fp = x86::fault_needs_fp(exit.trap) && get_fp_locked(fp).has_value();
  const x86::FaultSignal signal = x86::fault_signal(exit.trap, have_fp ? &fp : nullptr);
  exit.kind = Exit::Kind::Exception;
  exit.signal = signal.signal;
  exit.code = signal.code;
  exit.address = signal.at_pc ? regs_[x86::Rip] : 0;
}

Exit KvmVcpu::page_fault(std::uint64_t address, std::uint64_t error) {
  bool fetch = (error & x86::pf::kFetch) != 0;
  // A KVM that runs ring 3 on shadow tables may let SYSCALL jump to LSTAR and stay in ring 3, where this
  // fault follows. User code that jumps there by itself has interrupts enabled, and cannot help it.
  if (fetch && address == KernelHalf::kStubPage + stub::syscall_entry() && regs_[x86::Rip] == address &&
      (regs_[x86::Rflags] & x86::kInterruptFlag) == 0)
    return syscall_exit(true);
  Exit exit;
  exit.kind = Exit::Kind::PageFault;
  exit.trap = x86::kVectorPageFault;
  exit.error = error;
  exit.address = address;
  exit.present = (error & x86::pf::kPresent) != 0;
  exit.access = fetch ? mm::Access::Execute : (error & x86::pf::kWrite) != 0 ? mm::Access::Write : mm::Access::Read;
  return exit;
}

std::uint64_t* KvmVcpu::stack_word(std::uint64_t address) const {
  return reinterpret_cast<std::uint64_t*>(page_.host.data() + (address - page_.address));
}

}  // namespace ramet::vmm::kvm
