#include "vmm/kvm/exit_reason.hpp"

#include <fmt/format.h>

#include <cstring>

namespace ramet::vmm::kvm {
namespace {

std::string internal_error(const kvm_run& run) {
  switch (run.internal.suberror) {
    case KVM_INTERNAL_ERROR_EMULATION: return "KVM could not emulate an instruction of the guest";
    case KVM_INTERNAL_ERROR_SIMUL_EX: return "KVM met two exceptions at once";
    case KVM_INTERNAL_ERROR_DELIVERY_EV: return "KVM could not deliver an exception to the guest";
    default: return fmt::format("KVM reports internal error {}", run.internal.suberror);
  }
}

}  // namespace

std::string describe_exit(const kvm_run& run) {
  switch (run.exit_reason) {
    case KVM_EXIT_SHUTDOWN: return "triple fault: the guest's descriptor tables or trap stub are damaged";
    case KVM_EXIT_INTERNAL_ERROR: return internal_error(run);
    case KVM_EXIT_FAIL_ENTRY:
      return fmt::format("the processor refused to enter the guest (reason {:#x})",
                         run.fail_entry.hardware_entry_failure_reason);
    case KVM_EXIT_MMIO:
      return fmt::format("the guest {} guest-physical address {:#x}, where there is no memory",
                         run.mmio.is_write ? "wrote to" : "read from", run.mmio.phys_addr);
    case KVM_EXIT_IO: return fmt::format("the trap stub used unexpected port {:#x}", run.io.port);
    case KVM_EXIT_HLT: return "the trap stub ran past one of its exits";
    case KVM_EXIT_UNKNOWN:
      return fmt::format("KVM left the guest for a reason it does not know ({:#x})", run.hw.hardware_exit_reason);
    default: return fmt::format("KVM left the guest for unexpected reason {}", run.exit_reason);
  }
}

std::string describe_host_fault(const kvm_run& run) {
  constexpr unsigned kMemoryFault = 39;  // KVM_EXIT_MEMORY_FAULT, Linux 6.8
  if (run.exit_reason != kMemoryFault) return "host memory behind a guest page cannot be reached";
  struct {
    std::uint64_t flags, gpa, size;
  } fault;
  std::memcpy(&fault, &run.mmio, sizeof fault);  // the union's start
  return fmt::format("host memory behind guest-physical address {:#x} cannot be reached", fault.gpa);
}

}  // namespace ramet::vmm::kvm
