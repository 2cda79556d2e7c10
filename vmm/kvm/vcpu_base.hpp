// What a virtual CPU of KVM's is on every host: its files, and how other threads make it leave the guest.
#pragma once

#include <sys/mman.h>

#include <atomic>

#include "guest-mm/thread_annotations.hpp"
#include "vmm/kvm/device.hpp"
#include "vmm/machine.hpp"

namespace ramet::vmm::kvm {

class VcpuBase : public Vcpu {
 public:
  ~VcpuBase() override;
  Exit run() final RAMET_EXCLUDES(busy_);
  void kick() override;
  const VcpuCounters& counters() const override { return counters_; }

  // --- for the machine ---
  // The generation whose entries the guest uses, 0 while it is not running user code.
  std::uint64_t guest_generation() const { return guest_generation_.load(std::memory_order_seq_cst); }
  bool older_than(std::uint64_t generation) const {
    const std::uint64_t g = guest_generation();
    return g != 0 && g < generation;
  }
  // Makes the vCPU leave the guest, if it is there: run() returns Kicked, or the exit that was under way.
  void interrupt_guest();
  // Waits until the vCPU has left the guest, or uses entries of that generation or a later one.
  void wait_outside(std::uint64_t generation);
  bool last_run_by(int tid) const { return tid_.load(std::memory_order_relaxed) == tid; }

 protected:
  // Errors: KVM refuses it; no memory.
  Status open(const HostFd& vm, const Device&, unsigned id);
  // run(), but for counting the exit.
  Exit enter() RAMET_EXCLUDES(busy_);
  // The rest of enter(), after an earlier kick was answered. enter() calls leave() afterwards.
  virtual Exit enter_guest() RAMET_REQUIRES(busy_) = 0;
  int run_kvm();                    // KVM_RUN; 0 or errno
  bool take_kick();                 // whether there was one; forgets it
  Exit kicked();                    // the exit that answers a kick, which it forgets
  void leave();                     // the vCPU has left user code: wakes flushes that wait for that
  static Exit broken(std::string why);

  HostFd fd_;
  kvm_run* run_ = nullptr;
  VcpuCounters counters_;

  // Held by run(), by a flush of another thread that borrows the idle vCPU, and by whatever changes what either loads.
  Mutex busy_;
  // seq_cst in announce() and in older_than(): pairs with the machine's generation. Release when it becomes 0: pairs
  // with wait_outside().
  std::atomic<std::uint64_t> guest_generation_{0};
  // seq_cst. Set by kick() before it reads guest_generation_; run() reads it after it wrote that. Taken by
  // run() after it cleared immediate_exit, so that a kick which that clearing overwrites is found here.
  std::atomic<bool> kicked_{false};
  std::atomic<int> tid_{0};  // the thread in run(), or the last one. Written before guest_generation_ (seq_cst)

 private:
  std::size_t run_size_ = 0;
};

}  // namespace ramet::vmm::kvm
