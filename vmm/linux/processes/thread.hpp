// Thread: one guest thread, run by one host thread on one vCPU.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "vmm/linux/blocking.hpp"
#include "vmm/linux/credentials.hpp"
#include "vmm/linux/processes/process.hpp"
#include "vmm/linux/processes/scheduling.hpp"
#include "vmm/linux/signals/state.hpp"
#include "vmm/linux/syscall.hpp"
#include "vmm/machine.hpp"

namespace ramet::vmm {

class Thread {
 public:
  // Owns the vCPU, which is one of the image's machine: the destructor releases it.
  Thread(Process& of, std::shared_ptr<Image> in, Vcpu& on, int id)
      : process(of), tid(id), image_(std::move(in)), vcpu_(&on) {}
  ~Thread();
  Thread(const Thread&) = delete;
  Thread& operator=(const Thread&) = delete;

  Process& process;
  mm::Charge charge;                            // of all but a process's first thread, see Process::spawn()
  int tid;                                      // changed by execve(2) only, under threads_lock
  // Of a copy's first thread: its id when it was saved first, which its libraries may keep. 0: none.
  int former_tid = 0;
  bool goes_by(int id) const { return id == tid || (id > 0 && id == former_tid); }

  Image& image() { return *image_; }
  mm::AddressSpace& memory() { return image_->memory(); }
  Vcpu& vcpu() { return *vcpu_.load(std::memory_order_relaxed); }
  const arch::GuestAbi& abi() const { return image_->abi; }
  UserRegs& regs() { return vcpu().regs(); }
  // Of regs(): program counter, stack pointer.
  std::uint64_t pc() { return regs()[abi().reg.pc]; }
  std::uint64_t sp() { return regs()[abi().reg.sp]; }
  void set_result(std::uint64_t value) { regs()[abi().reg.result] = value; }  // of a system call
  // A program's first instruction, with execve(2)'s registers.
  void start_at(mm::Gva pc, mm::Gva sp);

  // Runs the guest until this thread or the process ends. On the host thread that is to be the guest's.
  void loop();
  // Serves what the guest came out for. Exceptions end here: if the host lacks what the VMM needs (memory, a thread),
  // this guest process ends, as if by the OOM killer. Locks are released on the way here, what other processes share is
  // as it was or as it was to be, and what was the process's alone goes with it.
  void serve(const Exit&) noexcept;
  // Runs the guest until it comes out, and serves that.
  void run_once() noexcept;

  // Makes the thread look at its signals and at Process::ending() soon: leaves guest mode, and any host
  // call made through blocking(). From any thread.
  void interrupt();
  // The same for the thread itself while it serves its guest, which ends with a look at signals: cheaper, as nothing
  // must leave the guest.
  void look_at_signals() { interruption_.set(); }
  // interrupt() or look_at_signals(), by which thread calls: after something was sent to this one.
  void alert() { is_current() ? look_at_signals() : interrupt(); }
  // Sends this thread, which calls, a standard signal for something that it did (SIGPIPE, SIGXFSZ).
  void raise(int sig);
  bool is_current() const;  // the caller is this thread's host thread

  // A host system call that may block for long. Returns its result or -errno. If interrupt() was called
  // since the thread last looked at its signals, or while the call waits, returns -EINTR; there is no
  // window in which an interruption gets lost. Every host call that can block goes through here.
  std::int64_t blocking(long number, std::uint64_t a = 0, std::uint64_t b = 0, std::uint64_t c = 0, std::uint64_t d = 0,
                        std::uint64_t e = 0, std::uint64_t f = 0);

  // Whether it is in such a call; for /proc. From any thread.
  bool waiting() const { return interruption_.waiting(); }

  // Waits until the word is not `value` any more, whatever signals come; they are looked at later. Returns early only
  // if the thread must end, or, if `killable`, for a signal that ends the process (it does so here).
  void wait_while(std::atomic<std::uint32_t>& word, std::uint32_t value, bool killable = true);

  // The process ends, or goes on with another thread alone (execve).
  bool must_end() const { return process.ending() || (process.survivor() && process.survivor() != this); }

  // True if a signal that is not blocked is pending, or the thread must end: a waiting call must give up.
  // False: the thread was interrupted for nothing that concerns it, and blocking() waits again.
  bool should_stop_waiting() RAMET_EXCLUDES(process.signals.lock);

  // Inside the vDSO (in_vdso()) the thread is not to be interrupted: what is in its registers and on its stack there is
  // good for this host only, and signal frames and snapshots would keep it. True: it is inside, and the next run()
  // brings it an instruction further; call this again then. False: it is outside, or has made more steps inside than
  // the vDSO's code takes.
  bool step_out(unsigned most_steps = 2000);
  // Whether it may park. False: it is inside the vDSO, and the next run() brings it further, by a step or until the
  // next interruption.
  bool may_park();

  // Replaces the signal mask until the call is over, as ppoll, pselect and epoll_pwait do: deliver_signals()
  // puts the old one back, before handlers run if the call was not interrupted, after them if it was.
  void set_temporary_mask(SignalSet) RAMET_EXCLUDES(process.signals.lock);

  // At exit(2) and execve(2): releases robust futexes, and clears the tid that CLONE_CHILD_CLEARTID asked for.
  void release_memory(bool clear_tid);
  // execve(2): moves the thread to a vCPU of another image. On its own host thread; under threads_lock.
  void move_to(std::shared_ptr<Image>, Vcpu&, int new_tid);

  // Processor time used so far, guest code included. usage() of another thread counts all of it as user time. Under
  // threads_lock.
  std::chrono::nanoseconds processor_time() { return processor_time(elsewhere()); }
  rusage usage() { return usage(elsewhere()); }
  // The same; `elsewhere`: what its vCPUs told of themselves (Vcpu::time_elsewhere()), for which its own host thread
  // needs no lock.
  std::chrono::nanoseconds processor_time(std::chrono::nanoseconds elsewhere);
  rusage usage(std::chrono::nanoseconds elsewhere);

  // What setpriority(2) and sched_setaffinity(2) gave it, or what it inherited; an empty set stands for the VMM's. The
  // host threads that work for it get its nice value, or the VMM's own if that is higher; but the caller's of Vm::run()
  // keeps its value if it could not be restored later. The host thread that runs guest code gets the set. Under
  // threads_lock, or before it runs. The setters return 0 or errno.
  int nice() const { return nice_; }
  std::span<const std::byte> affinity() const { return affinity_; }
  int set_nice(int);
  int set_affinity(std::vector<std::byte>);
  Scheduling scheduling;  // under threads_lock, or before it runs

  // PR_SET_NAME, at most 15 bytes. From any thread.
  std::string name() const RAMET_EXCLUDES(name_lock_);
  void set_name(std::string) RAMET_EXCLUDES(name_lock_);

  ThreadSignals signals;  // guarded by process.signals.lock
  // From here on to exit_status: used by the thread's own host thread, and by the one that makes it before it runs.
  mm::Gva clear_child_tid = 0;  // written 0 and woken at exit (CLONE_CHILD_CLEARTID)
  mm::Gva robust_list = 0;
  std::array<std::shared_ptr<OpenFile>, 16> rings;  // IORING_REGISTER_RING_FDS
  std::function<std::int64_t(Thread&)> restart;  // what restart_syscall(2) runs, see kRestartBlock
  bool exited = false;  // exit(2) was called
  int exit_status = 0;  // its argument

  // Its own host thread reads them without a lock, others under threads_lock.
  const std::shared_ptr<const Credentials>& credentials() const { return credentials_; }
  void set_credentials(Credentials) RAMET_EXCLUDES(process.threads_lock);  // by its own host thread, or before it runs

  // Statistics, added to the family's when the thread is destroyed.
  void count_call(Call call) { ++calls_[static_cast<std::size_t>(call)]; }
  // Nothing is to be done between the call's result and the guest's next instruction.
  bool undisturbed() const { return !interruption_.raised() && !signals.saved_mask; }

  arch::FaultRecord last_fault;  // for signal frames (Linux: thread.trap_nr, error_code, cr2)

 private:
  std::array<std::uint64_t, arch::kMostCalls> calls_{};
  friend class Process;
  friend void deliver_signals(Thread&, std::int64_t);
  std::shared_ptr<Image> image_;
  std::atomic<Vcpu*> vcpu_;  // pairs: stored by move_to(), loaded by interrupt() in a signal handler
  Interruption interruption_;
  std::atomic<pthread_t> host_{};  // set by begin(); pairs with interrupt(), is_current(), processor_time()
  std::atomic<bool> running_{false};  // host_ is valid
  pid_t host_id_ = 0;  // the same thread's; written before running_
  std::chrono::nanoseconds elsewhere_before_{};  // Vcpu::time_elsewhere() of vCPUs that it had before
  int nice_ = 0;  // under threads_lock
  std::vector<std::byte> affinity_;  // likewise
  mutable Mutex name_lock_;  // innermost
  std::string name_ RAMET_GUARDED_BY(name_lock_);
  bool fixed_nice_ = false;  // its host thread is to keep its nice value
  std::shared_ptr<const Credentials> credentials_ = Credentials::of_vmm();  // written under threads_lock
  // step_out()'s: the step flag is set in the registers, and what the guest had there.
  bool stepping_ = false, single_steps_ = false;
  unsigned steps_ = 0;  // since it was seen outside, or ran on
  unsigned runs_ = 0;  // times it ran on, since it was seen outside
  void begin() RAMET_EXCLUDES(process.threads_lock);
  std::chrono::nanoseconds elsewhere() { return elsewhere_before_ + vcpu().time_elsewhere(); }
  int host_nice() const;
  int schedule_host_thread();
  void handle(const Exit&);
  void end_for(const std::exception&) noexcept;
  void page_fault(const Exit&);
  bool has_fault() const RAMET_EXCLUDES(process.signals.lock);  // a fault is to be delivered as a signal
  int fatal_signal() RAMET_EXCLUDES(process.signals.lock);  // pending, not blocked, and nobody handles it; 0: none
};

}  // namespace ramet::vmm
