// Process: one guest process: its image, threads, signals and files.
#pragma once

#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "guest-mm/address_space.hpp"
#include "guest-mm/thread_annotations.hpp"
#include "vmm/error.hpp"
#include "vmm/linux/blocking.hpp"
#include "vmm/linux/credentials.hpp"
#include "vmm/linux/files/files.hpp"
#include "vmm/linux/limits.hpp"
#include "vmm/linux/processes/parking.hpp"
#include "vmm/linux/processes/scheduling.hpp"
#include "vmm/linux/program/image.hpp"
#include "vmm/linux/signals/state.hpp"
#include "vmm/linux/syscall.hpp"
#include "vmm/machine.hpp"

namespace ramet::vmm {

class SavePoints;
class Family;
class Thread;
class Timers;

// How a program ended, as wait(2) would tell: by exit(2), by a signal, or by the VMM.
struct Ending {
  enum class Kind : std::uint8_t { Exited, Signalled, TimedOut, Broken } kind = Kind::Exited;
  int code = 0;            // exit status or signal number
  std::string message;     // for people: why a signal was fatal (address, program counter), or what broke
  int status() const;      // what `ramet run` exits with: code, 128+code, 124, 125
  int wait_status() const; // as wait4(2) gives it; TimedOut and Broken are SIGKILL
};

class Process : public std::enable_shared_from_this<Process> {
 public:
  // `pid` is one of the family's ids; Family::add() makes the process known.
  Process(Family&, int pid, std::shared_ptr<Image>, Files);
  ~Process();

  Family& family;                               // outlives it
  Files files;
  ProcessSignals signals;
  Limits limits;                                // RLIMIT_*, see limits.hpp
  std::unique_ptr<Timers> timers;               // alarms and interval timers, see timers.hpp
  const int pid;                                // also the leader's tid

  // What it runs; null once it has ended. From any thread.
  std::shared_ptr<Image> image() const RAMET_EXCLUDES(image_lock_);
  void set_image(std::shared_ptr<Image>) RAMET_EXCLUDES(image_lock_);  // before its first thread; later only become()
  // The image's. For the process's own threads only, as only they change the image.
  mm::AddressSpace& memory() const { return image_->memory(); }
  Machine& machine() const { return image_->machine(); }

  // Stops all threads but one, which looks at them.
  Parking parking;
  // The signal that a copy of it begins with; 0: none (ramet_guest.h). Pairs with nothing: its threads are parked when
  // it is saved.
  std::atomic<int> generation_signal{0};
  // What waits for the moment to save the process; null: nothing. Set before run(); children have none.
  std::shared_ptr<SavePoints> saving;

  // Its first thread's, or the next one's if that has ended; the VMM's if it has no thread. From any thread.
  std::shared_ptr<const Credentials> credentials() RAMET_EXCLUDES(threads_lock);
  std::atomic<unsigned> user;  // the real user id of its first thread, also when that has gone
  // A thread of it has had other ids than the VMM. Pairs: Thread::set_credentials()'s release with the acquire of
  // files/access.cpp.
  std::atomic<bool> other_ids{false};

  // What read(2), write(2) and their like have done, for /proc.
  struct Transferred {
    std::atomic<std::uint64_t> reads{0}, writes{0}, read_bytes{0}, written_bytes{0};
  } transferred;
  // oom_score_adj, and the least that it may become without a privilege. Only shown: the host's OOM killer does not
  // know of it.
  struct Oom {
    std::atomic<int> adjustment{0}, least{0};
  } oom;

  // Policy, set before run().
  bool deny_wx = false;  // mmap and mprotect refuse writable and executable (EACCES)

  // Forwards signals of the host (SIGINT from a terminal and the like) to the process, those of the terminal to the
  // whole foreground group. Async-signal-safe: the first thread is interrupted, and sends them.
  void forward_from_handler(SignalSet set, bool from_terminal);
  void take_forwarded(Thread& by);  // does nothing on others than the first thread

  // A thread on a vCPU of the process's image, for run(). Errors: no vCPU.
  std::expected<std::unique_ptr<Thread>, Failure> make_thread(int tid);
  // For the family's first process: runs these threads, the first on the calling host thread, until the whole process
  // has ended.
  Ending run(std::vector<std::unique_ptr<Thread>>) RAMET_EXCLUDES(threads_lock, ending_lock_);
  // Releases what it held: files, memory, timers. Once, after its last thread has gone.
  void finish() RAMET_EXCLUDES(threads_lock);

  // --- threads ---
  // A new guest thread that starts with `regs`, on a host thread of its own. Returns the tid, or -errno (EAGAIN: no
  // vCPU or host thread, too many, or the process is ending). A tid that cannot be stored is no error.
  struct Spawn {
    UserRegs regs;
    arch::Bases bases{};
    mm::Gva set_parent_tid = 0, set_child_tid = 0, clear_child_tid = 0;
    std::uint64_t signal_mask = 0;
    const FpState* fp = nullptr;
    std::string name;
    const ThreadSignals* altstack_of = nullptr;  // the new thread has that one's alternate stack
    int nice = 0;
    Scheduling scheduling;
    std::shared_ptr<const Credentials> credentials;
    std::vector<std::byte> affinity;  // as Thread has it
    bool leader = false;  // the first of a new process: its tid is the pid
  };
  std::int64_t spawn(const Spawn&) RAMET_EXCLUDES(threads_lock);
  void interrupt_threads() RAMET_EXCLUDES(threads_lock);  // all but the caller
  // Null if none; valid as long as the lock is held.
  Thread* find_thread(int tid) RAMET_REQUIRES(threads_lock);
  // Guest memory (AddressSpace's lock, which can take long) is not touched under this lock, and no host call that can
  // wait is made. Order: vmm/README.md.
  Mutex threads_lock;
  std::vector<std::unique_ptr<Thread>> threads RAMET_GUARDED_BY(threads_lock);
  std::size_t thread_count() RAMET_EXCLUDES(threads_lock);

  // execve(2)'s point of no return: ends every other thread; the caller becomes the leader, on a vCPU of the new image.
  // False: the process is ending, or another thread was first; the caller's thread ends.
  bool become(Thread& caller, std::shared_ptr<Image>, Vcpu&) RAMET_EXCLUDES(threads_lock);
  // The thread that become() lets live; null: all.
  const Thread* survivor() const { return survivor_.load(std::memory_order_acquire); }  // pairs with become()

  // Ends the process and interrupts all its threads. The Ending of the first call counts.
  void end(Ending) RAMET_EXCLUDES(threads_lock, ending_lock_);
  Ending ended() RAMET_EXCLUDES(threads_lock, ending_lock_);  // end()'s first, or else the first thread's exit(2)
  bool ending() const { return ending_.load(std::memory_order_acquire); }  // pairs with end()'s release

  // Of a child made with CLONE_VFORK, set before its first thread: a futex word that becomes 1 when it does not use its
  // parent's image any more.
  std::shared_ptr<std::atomic<std::uint32_t>> vfork_done;

  // Processor time of all its threads, and the most memory it had.
  rusage usage() RAMET_EXCLUDES(threads_lock);
  std::chrono::nanoseconds processor_time() RAMET_EXCLUDES(threads_lock);

 private:
  friend class Family;
  // Removes a thread that ends. True: it was the last one.
  bool leave(Thread&, std::unique_ptr<Thread>& owned) RAMET_EXCLUDES(threads_lock);
  void tell_vfork_parent();

  std::atomic<bool> ending_{false};
  Mutex ending_lock_;  // innermost
  std::optional<Ending> result_ RAMET_GUARDED_BY(ending_lock_);
  mutable Mutex image_lock_;  // held to write image_, and to read it by others than its own threads; innermost
  std::shared_ptr<Image> image_;
  std::atomic<const Thread*> survivor_{nullptr};
  int leader_status_ RAMET_GUARDED_BY(threads_lock) = 0;  // exit(2)'s argument of the first thread
  rusage gone_ RAMET_GUARDED_BY(threads_lock){};  // of threads that have ended
  std::chrono::nanoseconds gone_time_ RAMET_GUARDED_BY(threads_lock){};
  std::uint64_t peak_bytes_ RAMET_GUARDED_BY(threads_lock) = 0;  // of images it had before

  // A futex word that changes with each thread that leaves.
  std::atomic<std::uint32_t> departures_{0};
  // Pairs: the handler's fetch_or with take_forwarded()'s exchange.
  std::atomic<std::uint64_t> forwarded_{0}, forwarded_terminal_{0};
  std::atomic<Thread*> first_{nullptr};  // set while run() runs; read by the handler
};

// Adds up times and counts, and takes the larger maximum of memory: of threads, of children.
void add_usage(rusage& sum, const rusage& more);

}  // namespace ramet::vmm
