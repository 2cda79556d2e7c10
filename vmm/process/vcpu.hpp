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
  Exit run() override RAMET_EXCLUDES(staying_);
  void spurious_fault() override { counters_.spurious.add(); }
  void kick() override;
  void set_base(unsigned n, std::uint64_t value) override RAMET_EXCLUDES(staying_) {
    LockGuard stay(staying_);
    bases_[n] = value, bases_changed_ = true;
  }
  std::uint64_t base(unsigned n) override RAMET_EXCLUDES(staying_) {
    LockGuard stay(staying_);
    return bases_[n];
  }
  Status get_fp(FpState&) override RAMET_EXCLUDES(staying_);
  Status set_fp(const FpState&) override RAMET_EXCLUDES(staying_);
  void copy_fp(const FpState& fp) override { (void)set_fp(fp); }
  void reset_fp() override RAMET_EXCLUDES(staying_);
  bool elsewhere() const override { return true; }
  std::chrono::nanoseconds time_elsewhere() override;
  int set_nice(int) override RAMET_EXCLUDES(scheduling_);
  int set_affinity(std::span<const std::byte>) override RAMET_EXCLUDES(scheduling_);
  const VcpuCounters& counters() const override { return counters_; }

  // Makes the vCPU what acquire_vcpu() promises, but for the nice value.
  void recycle() RAMET_EXCLUDES(staying_, scheduling_);
  // Resets the nice value. True: the host does not allow that, the thread goes on running less often than others.
  bool stays_nice() RAMET_EXCLUDES(scheduling_);

  // --- for ProcessMachine::move_on() ---
  // Gets the vCPU out of guest code and returns staying_ locked, which keeps it out.
  std::unique_lock<Mutex> come_out() RAMET_EXCLUDES(staying_);
  // The vCPU goes on in that thread of that process. Called with machine_.here_ and what come_out() returned held.
  void move_to(Child&, Mirror&, unsigned number, Child::Thread thread) RAMET_EXCLUDES(scheduling_);

 private:
  Exit enter_and_wait() RAMET_EXCLUDES(staying_);
  Exit decode() RAMET_REQUIRES(staying_);
  bool take_kick() { return kicked_.exchange(false, std::memory_order_seq_cst); }
  // The caller holds come_out()'s lock, one of as many as there are vCPUs: clang cannot see that.
  void assert_out() const RAMET_ASSERT_CAPABILITY(staying_) {}

  ProcessMachine& machine_;
  // Keeps the vCPU in its process: held by run() from before it enters guest code until it has decoded the trap.
  Mutex staying_;
  Listener listener_ RAMET_GUARDED_BY(staying_);
  Pace pace_ RAMET_GUARDED_BY(staying_);
  Mirror::Slot slot_;  // guarded by the mirror's lock, and its context by staying_
  // Of thread_, for kick(). Relaxed: run() sees a kick that went to the former thread before it enters again.
  std::atomic<Child::Who> who_;
  UserRegs regs_ = arch::host_abi().initial_registers();  // of the thread that uses the vCPU
  VcpuCounters counters_;
  std::optional<arch::HostFrame> frame_ RAMET_GUARDED_BY(staying_);  // of the trap it stands in
  // Loaded by the next run(); nullopt: the frame's are the current ones.
  std::optional<FpState> fp_ RAMET_GUARDED_BY(staying_);
  arch::Bases bases_ RAMET_GUARDED_BY(staying_){};
  bool bases_changed_ RAMET_GUARDED_BY(staying_) = false;  // since they were told the process
  std::optional<Mirror::Wish> wish_ RAMET_GUARDED_BY(staying_);  // what it faulted on
  unsigned refused_ RAMET_GUARDED_BY(staying_) = 0;  // times in a row that the host would not map that
  std::atomic<std::int64_t> used_{0};  // nanoseconds that its thread is known to have used. Relaxed: it only grows
  std::int64_t used_before_ = 0;  // the same at recycle()
  // Guarded by staying_ and by machine_.here_: both to write, either to read.
  int thread_;
  std::int64_t used_in_others_ = 0;  // nanoseconds, by threads that it had before
  // What set_nice() and set_affinity() were told.
  Mutex scheduling_;
  std::optional<int> nice_ RAMET_GUARDED_BY(scheduling_);
  std::vector<std::byte> affinity_ RAMET_GUARDED_BY(scheduling_);
  // seq_cst. Set by kick() before it reads slot_.inside; run() sets that before it reads this once more.
  std::atomic<bool> kicked_{false};
};

}  // namespace ramet::vmm::process
