// SoftVcpu: an engine, and how flushes reach it. The engine looks at page tables by itself and keeps what it saw; only
// its own thread takes that away. A flush leaves a note of what has changed and, if guest code runs, halts it: the vCPU
// is inside while it may use what it keeps, and goes inside only with no notes left.
//
//   vCPU:   inside = odd;  notes left?  then out again, carries them out, once more;  runs;  inside = even
//   flush:  leaves the note;  inside odd?  then halts, and waits until it is another number
//
// Either sees the other (seq_cst on both sides), so that nothing old is used once the flush has returned. What the vCPU
// keeps between the change of the entries and its way out goes with the note.
#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "arch/arm64/guest_abi.hpp"
#include "guest-mm/thread_annotations.hpp"
#include "vmm/machine.hpp"
#include "vmm/soft/engine.hpp"

namespace ramet::vmm::soft {

class SoftMachine;

class SoftVcpu final : public Vcpu, private Memory {
 public:
  explicit SoftVcpu(SoftMachine& machine) : machine_(machine) {}

  UserRegs& regs() override { return regs_; }
  Exit run() override;
  void spurious_fault() override { counters_.spurious.add(); }
  void kick() override;
  void set_base(unsigned, std::uint64_t value) override { engine_->set_thread_pointer(value); }
  std::uint64_t base(unsigned) override { return engine_->thread_pointer(); }
  Status get_fp(FpState& fp) override {
    engine_->store_fp(fp);
    return {};
  }
  Status set_fp(const FpState& fp) override {
    engine_->load_fp(fp);
    return {};
  }
  void copy_fp(const FpState& fp) override { (void)set_fp(fp); }
  void reset_fp() override { (void)set_fp({}); }
  const VcpuCounters& counters() const override { return counters_; }

  // --- for the machine, with its vcpus_lock_ ---
  // It has an engine while it is in use, and may keep it afterwards. Without one it is not in use, and left no notes.
  bool has_engine() const { return engine_ != nullptr; }
  void give_engine(std::unique_ptr<Engine>) RAMET_EXCLUDES(notes_lock_);
  std::unique_ptr<Engine> take_engine();
  // Makes the vCPU what acquire_vcpu() promises.
  void recycle();
  using Range = mm::Range;
  // Both leave a note, and halt guest code if it runs. They return what to give to wait_until_out().
  // Entries of these ranges have changed; `everything`: all may have.
  std::uint32_t note_flush(std::span<const Range>, bool everything) RAMET_EXCLUDES(notes_lock_);
  // The instructions there may have changed.
  std::uint32_t note_code(const CodePiece&) RAMET_EXCLUDES(notes_lock_);
  // Waits until the vCPU has carried out the note, or will before it runs guest code.
  void wait_until_out(std::uint32_t);
  bool has_code(mm::Gpa frame) const { return engine_->has_code(frame); }
  std::uint64_t fills() const { return fills_; }  // runs that engines have taken over from the tables

  // IC IVAU works on so many bytes; see CTR_EL0.
  static constexpr unsigned kLine = 64;

 private:
  std::optional<Run> look(std::uint64_t page, Access, std::uint64_t reach) override;
  void want_code(std::uint64_t page) override;
  // Brings memory of a layer that the page tables lead to. False: there is none, or it is there already.
  bool bring(mm::Gva address, Access);
  bool enter() RAMET_EXCLUDES(notes_lock_);
  void leave();
  void carry_out_notes() RAMET_EXCLUDES(notes_lock_);
  std::uint32_t halt_after_note();
  Exit decode(const Stop&);

  SoftMachine& machine_;
  // Set by give_engine() and taken by take_engine(), while no thread uses the vCPU, under the machine's vcpus_lock_. So
  // that lock, or the use of the vCPU, suffices to read it. kick() holds neither: it reads engine_ only if the vCPU is
  // inside, and take_engine() waits until kicking_ is 0.
  std::unique_ptr<Engine> engine_;
  // Of the thread that uses the vCPU: engine_ is bound to this VM's memory, which the first run() does, as the program
  // is loaded by then.
  bool bound_ = false;
  UserRegs regs_ = arch::arm64::kGuestAbi.initial_registers();
  VcpuCounters counters_;
  std::atomic<bool> kicked_{false};  // seq_cst: set by kick() before it looks whether guest code runs
  std::atomic<std::uint32_t> inside_{0};  // odd: guest code runs. See above
  // Threads in kick(), which may still halt the engine that they saw inside. seq_cst: counted before they look.
  std::atomic<std::uint32_t> kicking_{0};
  std::atomic<bool> noted_{false};  // there are notes. See above
  mm::Counter fills_;
  struct Notes {
    std::vector<Range> ranges;
    std::unordered_map<std::uint64_t, CodePiece> pieces;  // by frame: guest code can make no more notes than frames
    bool everything = false;
  };
  Mutex notes_lock_;
  Notes notes_ RAMET_GUARDED_BY(notes_lock_);
};

}  // namespace ramet::vmm::soft
