// ProcessVcpu: one thread of a guest's host process. Between two runs it stands in the stub, and its registers lie in
// the frame that the host's kernel made of its last trap.
#pragma once

#include <atomic>
#include <mutex>
#include <optional>
#include <vector>

#include "arch/host_processor.hpp"
#include "arch/process_frame.hpp"
#include "vmm/machine.hpp"
#include "vmm/process/machine.hpp"
#include "vmm/process/pace.hpp"

namespace ramet::vmm::process {

class ProcessVcpu final : public Vcpu {
 public:
  // `thread` exists already, in the context of that number.
  ProcessVcpu(ProcessMachine& machine, unsigned number, Child::Thread thread);
  ~ProcessVcpu() override;

  UserRegs& regs() override { return regs_; }
  Exit run() override;
  void spurious_fault() override { counters_.spurious.add(); }
  void kick() override;
  void set_base(unsigned n, std::uint64_t value) override {
    LockGuard stay(staying_);
    bases_[n] = value, bases_changed_ = true;
  }
  std::uint64_t base(unsigned n) override { return bases_[n]; }
  Status get_fp(FpState&) override;
  Status set_fp(const FpState&) override;
  void copy_fp(const FpState& fp) override { (void)set_fp(fp); }
  void reset_fp() override;
  bool elsewhere() const override { return true; }
  std::chrono::nanoseconds time_elsewhere() override;
  int set_nice(int) override;
  int set_affinity(std::span<const std::byte>) override;
  const VcpuCounters& counters() const override { return counters_; }

  // Makes the vCPU what acquire_vcpu() promises, but for the nice value.
  void recycle();
  // Resets the nice value. True: the host does not allow that, the thread goes on running less often than others.
  bool stays_nice();

  // --- for ProcessMachine::move_on() ---
  // Gets the vCPU out of guest code and returns staying_ locked, which keeps it out.
  std::unique_lock<std::mutex> come_out();
  // The vCPU goes on in that thread of that process. Called with staying_ and machine_.here_ held.
  void move_to(Child&, Mirror&, unsigned number, Child::Thread thread);

 private:
  Exit enter_and_wait();
  Exit decode();
  bool take_kick() { return kicked_.exchange(false, std::memory_order_seq_cst); }

  ProcessMachine& machine_;
  // Keeps the vCPU in its process: held by run() from before it enters guest code until it has decoded the trap, and
  // wherever the fields below are used otherwise.
  std::mutex staying_;
  Listener listener_;
  Pace pace_;
  Mirror::Slot slot_;
  int thread_;
  // Of thread_, for kick(). Relaxed: run() sees a kick that went to the former thread before it enters again.
  std::atomic<Child::Who> who_;
  UserRegs regs_ = arch::host_abi().initial_registers();
  VcpuCounters counters_;
  std::optional<arch::HostFrame> frame_;  // of the trap it stands in
  std::optional<FpState> fp_;  // to be loaded by the next run(); else what the frame holds
  arch::Bases bases_{};
  bool bases_changed_ = false;
  std::optional<Mirror::Wish> wish_;  // what it faulted on
  unsigned refused_ = 0;  // times in a row that the host would not map that
  std::atomic<std::int64_t> used_{0};  // nanoseconds that its thread is known to have used. Relaxed: it only grows
  std::int64_t used_before_ = 0;  // the same at recycle()
  // Guarded by staying_ and by machine_.here_: both to write, either to read.
  std::int64_t used_in_others_ = 0;  // nanoseconds, by threads that it had before
  // What set_nice() and set_affinity() were told. Written by one thread at a time, with here_ held shared.
  std::optional<int> nice_;
  std::vector<std::byte> affinity_;
  // seq_cst. Set by kick() before it reads slot_.inside; run() sets that before it reads this once more.
  std::atomic<bool> kicked_{false};
};

}  // namespace ramet::vmm::process
