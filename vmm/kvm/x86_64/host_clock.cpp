// The host's clocks on KVM. The host's own vDSO, its data pages and its image, is shown to user code above the guest's
// memory. A guest program that calls it reads the time as programs of the host do: the same pages under the same
// sequence count, and the same counter. So no clock is computed here: none can differ from what the host's system call
// says, none goes back, and where the host itself makes a system call for the time (it does not trust its counter), so
// does the guest.
//
// That is right if user code's time-stamp counter is the host's own, and possible if KVM maps those pages. Both are
// tried by the first machine of this process; where one fails, guest programs make the system call.
#include <fmt/format.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstring>

#include "arch/ticks.h"
#include "vmm/host_time.hpp"
#include "vmm/host_vdso.hpp"
#include "vmm/kvm/x86_64/machine.hpp"
#include "vmm/kvm/x86_64/vcpu.hpp"

namespace ramet::vmm::kvm {

namespace x86 = arch::x86_64;

namespace {

// Guest-physical: below all banks.
constexpr mm::Gpa kPages = 0;
static_assert(kPages + kMostHostVdsoBytes <= mm::Memory::kTableBase);

// mov (%rdi),%rax; rdtscp; shl $32,%rdx; or %rdx,%rax; syscall. RDTSCP, because the host's vDSO uses it, and KVM may
// give a guest RDTSC alone.
constexpr std::array<std::uint8_t, 15> kTrialCode = {0x48, 0x8b, 0x07, 0x0f, 0x01, 0xf9, 0x48, 0xc1,
                                                     0xe2, 0x20, 0x48, 0x09, 0xd0, 0x0f, 0x05};

// The trial's result, for all machines of this process.
enum class Works : std::uint8_t { Unknown, Yes, No };
std::atomic<Works> works{Works::Unknown};  // written with `trying` held; release, acquire by show_host_vdso()
Mutex trying;                              // held during the trial

// How long the host has been suspended since it was booted, less the time between the two readings.
std::chrono::nanoseconds host_slept() {
  const auto since_boot = *host_time(CLOCK_BOOTTIME);
  return since_boot - *host_time(CLOCK_MONOTONIC);
}

}  // namespace

Status KvmMachine::show_host_vdso() {
  if (vmm::host_vdso().image_bytes == 0) return {};
  switch (works.load(std::memory_order_acquire)) {
    case Works::Yes: return show_host_vdso(false);
    case Works::No: return {};
    case Works::Unknown: break;
  }
  LockGuard hold(trying);
  const Works known = works.load(std::memory_order_acquire);  // another machine may have tried while we waited
  return known == Works::No ? Status{} : show_host_vdso(known == Works::Unknown);
}

Status KvmMachine::show_host_vdso(bool try_it) {
  const HostVdso& vdso = vmm::host_vdso();
  kvm_userspace_memory_region region = {};
  region.slot = max_slots_;  // the one after those of banks
  region.flags = KVM_MEM_READONLY;
  region.guest_phys_addr = kPages;
  region.memory_size = vdso.data_bytes + vdso.image_bytes;
  region.userspace_addr = vdso.address;
  if (int r = call(vm_, KVM_SET_USER_MEMORY_REGION, &region); r < 0)
    return failure(fmt::format("KVM cannot show the guest the host's vDSO: {}", std::strerror(-r)));
  if (auto mapped = kernel_.map_host_vdso(kPages, vdso.data_bytes, vdso.image_bytes); !mapped) return mapped;
  hosts_counter_ = true;
  if (try_it) {
    auto tried = try_host_vdso();
    if (!tried) return std::unexpected(tried.error());
    works.store(*tried ? Works::Yes : Works::No, std::memory_order_release);
    hosts_counter_ = *tried;
  }
  if (!hosts_counter_) return {};
  vdso_ = vdso.functions_at(KernelHalf::kHostVdso + vdso.data_bytes);
  vdso_.getcpu = 0;  // it would report the virtual CPU
  return {};
}

std::expected<bool, Failure> KvmMachine::try_host_vdso() {
  if (auto page = kernel_.map_trial(std::as_bytes(std::span(kTrialCode))); !page) return std::unexpected(page.error());
  auto acquired = acquire_vcpu();
  if (!acquired) return std::unexpected(acquired.error());
  auto& vcpu = static_cast<KvmVcpu&>(**acquired);
  vcpu.regs()[x86::Rip] = KernelHalf::kTrial;
  vcpu.regs()[x86::Rdi] = KernelHalf::kHostVdso;
  const std::uint64_t before = ramet_ticks();
  const Exit exit = vcpu.try_running();
  const std::uint64_t after = ramet_ticks(), seen = vcpu.regs()[x86::Rax];
  const bool ran = exit.kind == Exit::Kind::Syscall;
  if (ran) vcpu.changed_registers_only();
  release_vcpu(&vcpu);
  return ran && before <= seen && seen <= after;
}

Status KvmVcpu::keep_counter() {
  return machine_.hosts_counter_ && !machine_.model_.native_ring3 ? set_counter_locked(host_slept()) : Status{};
}

Status KvmVcpu::set_counter(std::chrono::nanoseconds slept) {
  LockGuard hold(busy_);
  return set_counter_locked(slept);
}

// KVM starts each counter at 0. When the host's own counter began anew in a suspension, KVM offsets its vCPUs' counters
// so that they go on from where they were; the host's clocks, however, go by the new count.
Status KvmVcpu::set_counter_locked(std::chrono::nanoseconds slept) {
  if (counter_set_ && std::chrono::abs(slept - *counter_set_) < std::chrono::milliseconds(1)) return {};
  const std::uint64_t offset = 0;
  kvm_device_attr attribute = {};
  attribute.group = KVM_VCPU_TSC_CTRL, attribute.attr = KVM_VCPU_TSC_OFFSET;
  attribute.addr = reinterpret_cast<std::uint64_t>(&offset);
  if (int r = call(fd_, KVM_SET_DEVICE_ATTR, &attribute); r < 0)
    return failure(fmt::format("KVM cannot set a virtual CPU's time-stamp counter: {}", std::strerror(-r)));
  counter_set_ = slept;
  return {};
}

}  // namespace ramet::vmm::kvm
