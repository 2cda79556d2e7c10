#include "vmm/kvm/vcpu_base.hpp"

#include <fmt/format.h>

#include <cstring>

#include "vmm/kvm/kick.hpp"

namespace ramet::vmm::kvm {

Status VcpuBase::open(const HostFd& vm, const Device& device, unsigned id) {
  int fd = call(vm, KVM_CREATE_VCPU, id);
  if (fd < 0) return failure(fmt::format("KVM cannot create virtual CPU {}: {}", id, std::strerror(-fd)));
  fd_ = HostFd(fd);
  run_size_ = device.run_size;
  void* run = mmap(nullptr, run_size_, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (run == MAP_FAILED)
    return failure(fmt::format("cannot map the state of virtual CPU {}: {}", id, std::strerror(errno)));
  run_ = static_cast<kvm_run*>(run);
  return {};
}

VcpuBase::~VcpuBase() {
  if (run_ != nullptr) munmap(run_, run_size_);
}

Exit VcpuBase::run() {
  Exit exit = enter();
  counters_.count(exit.kind);
  return exit;
}

Exit VcpuBase::enter() {
  LockGuard hold(busy_);
  tid_.store(prepare_thread_for_kicks(), std::memory_order_relaxed);
  if (take_kick()) return {};
  const struct Leaving {  // however this ends: flushes wait for it
    VcpuBase& vcpu;
    ~Leaving() { vcpu.leave(); }
  } leaving{*this};
  return enter_guest();
}

Exit VcpuBase::broken(std::string why) {
  Exit e;
  e.kind = Exit::Kind::Broken;
  e.detail = std::move(why);
  return e;
}

// seq_cst on both sides: either we see that the vCPU is in the guest, or run() sees the kick. A kick that
// has not been taken yet answers this one as well; many in a row do not drown the thread in signals.
void VcpuBase::kick() {
  if (kicked_.exchange(true, std::memory_order_seq_cst)) return;
  if (guest_generation() != 0) interrupt_guest();
}

// A KVM_RUN that starts after this sees immediate_exit; one that runs already gets the signal.
void VcpuBase::interrupt_guest() {
  std::atomic_ref(run_->immediate_exit).store(1, std::memory_order_seq_cst);
  kick_thread(tid_.load(std::memory_order_relaxed));
}

// Clears the flag first: a kick that comes between the two lines is seen now, or by the next KVM_RUN, or both.
bool VcpuBase::take_kick() {
  std::atomic_ref(run_->immediate_exit).store(0, std::memory_order_seq_cst);
  return kicked_.exchange(false, std::memory_order_seq_cst);
}

Exit VcpuBase::kicked() {
  take_kick();
  return {};
}

void VcpuBase::wait_outside(std::uint64_t generation) {
  for (;;) {
    std::uint64_t g = guest_generation_.load(std::memory_order_seq_cst);
    if (g == 0 || g >= generation) return;
    guest_generation_.wait(g, std::memory_order_acquire);
  }
}

void VcpuBase::leave() {
  guest_generation_.store(0, std::memory_order_release);
  guest_generation_.notify_all();
}

int VcpuBase::run_kvm() { return ::ioctl(fd_.get(), KVM_RUN, 0) == 0 ? 0 : errno; }

}  // namespace ramet::vmm::kvm
