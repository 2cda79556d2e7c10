// The host process that a guest runs in: made, given descriptors and threads, told what to map, and ended.
//
// Its first thread, the mapper, never runs guest code: it carries out what the VMM asks for while guest threads run.
// The process ends with the VMM, however that ends, and no waitpid(2) of the VMM's program sees it.
#pragma once

#include <atomic>
#include <bitset>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <memory>
#include <optional>
#include <span>

#include "arch/vdso.hpp"
#include "guest-mm/thread_annotations.hpp"
#include "vmm/error.hpp"
#include "vmm/process/context.hpp"
#include "vmm/process/mapper.hpp"

namespace ramet::vmm::process {

class ChildMaker;

class Child final : public Mapper {
 public:
  // `hardened`: no system call of its guest threads changes what is mapped; only its first thread maps.
  // Errors: no process, memory or descriptor; a host whose kernel or filter refuses what the process needs; each says
  // which.
  static std::expected<std::unique_ptr<Child>, Failure> create(bool hardened);
  ~Child() override;  // it has ended when this returns
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  Context context(unsigned number) const { return {contexts_, number}; }
  // How many contexts there are for guest threads, numbered from 1.
  static constexpr unsigned kMostThreads = RAMET_CONTEXTS - 2;

  bool threads_map() const override { return !hardened_; }
  // --- by its first thread ---
  std::expected<void, int> carry_out(std::span<const Command>) override RAMET_EXCLUDES(mapper_lock_);
  std::expected<std::array<int, kMostGiven>, int> give(std::span<const int> descriptors) override
      RAMET_EXCLUDES(mapper_lock_);
  std::expected<void, int> take_back(int number) override RAMET_EXCLUDES(mapper_lock_);
  std::expected<void, int> take_all_back(std::span<const Command> then) override RAMET_EXCLUDES(mapper_lock_);
  // Makes a guest thread in the context of that number, which had none; it stands in its first trap. Its listener is
  // not usable if descriptors are short. Errors: as of carry_out().
  struct Thread {
    int id = -1;
    Listener listener;
  };
  std::expected<Thread, int> make_thread(unsigned number) RAMET_EXCLUDES(mapper_lock_);

  // Where the process has the host's vDSO; all 0: nowhere, as the host has none or cannot map it at a given address.
  const arch::VdsoFunctions& vdso() const { return vdso_; }

  // Whether the process runs. It may have ended by itself, or for want of memory in the host.
  bool alive();
  // Ends the process now.
  void kill();
  // One of its threads, for signal().
  struct Who {
    int process, thread;
  };
  Who who(int thread) const { return {pid_, thread}; }
  // Sends a signal to that thread. Async-signal-safe. The process is reaped with its Child, so until then its id is
  // nobody else's; a thread or process that has ended needs no signal.
  static void signal(Who, int signal);
  // The processor time that a thread has used, including the mapper's if it is the only guest thread. That of a running
  // thread may be some milliseconds late. 0: the process has ended.
  std::chrono::nanoseconds time_of(int thread) const;
  // As setpriority(2) and sched_setaffinity(2). 0 or errno.
  int set_nice(int thread, int nice) const;
  int bind(int thread, std::span<const std::byte> processors) const;
  // Give the thread again what the process began with and its mapper still has. 0 or errno.
  int unset_nice(int thread) const;
  int unbind(int thread) const;
  // Kills the process after ten seconds, not counting those in which it or the VMM was stopped.
  bool patient(unsigned& silent) override;
  // For Context::sleep(): asks patient(), or, without a limit, alive().
  class Patience {
   public:
    explicit Patience(Child& child, bool limited = true) : child_(child), limited_(limited) {}
    bool operator()() { return limited_ ? child_.patient(silent_) : child_.alive(); }

   private:
    Child& child_;
    const bool limited_;
    unsigned silent_ = 0;
  };

 private:
  explicit Child(bool hardened) : hardened_(hardened) {}
  Status start() RAMET_EXCLUDES(mapper_lock_);
  // Waits until the context's newest list is answered. False: the process has ended, or was killed for not answering.
  bool answered(const Context&);
  // Has the mapper make these calls. Errors: as of carry_out().
  std::expected<void, int> ask(std::span<const Command>) RAMET_REQUIRES(mapper_lock_);
  // The lowest descriptor number from `from` on that is free in the process; nullopt: none is.
  std::optional<int> free_number(int from = 0) const RAMET_REQUIRES(mapper_lock_);
  // Fetches the listener that has this descriptor number in the process, and closes it there.
  std::expected<Listener, int> fetch_listener(int number) RAMET_REQUIRES(mapper_lock_);
  bool stopped() const;
  std::chrono::nanoseconds time_of_all() const;

  const bool hardened_;
  std::shared_ptr<ChildMaker> maker_;
  int pid_ = -1, pidfd_ = -1, socket_ = -1;
  std::byte* contexts_ = nullptr;
  arch::VdsoFunctions vdso_;
  Mutex mapper_lock_;  // held for each request to the mapper, until it is answered. Innermost
  // Guest threads made; and the process's time before the first one, written once before threads_ becomes 1. Release;
  // acquire in time_of().
  std::atomic<unsigned> threads_{0};
  std::chrono::nanoseconds before_threads_{0};
  // Descriptors in use in the process: the kernel gives a new one the lowest free number.
  std::bitset<1024> numbers_ RAMET_GUARDED_BY(mapper_lock_);
  std::atomic<bool> ended_{false};  // seen to have ended, or killed. Relaxed: a hint that saves a call
};

}  // namespace ramet::vmm::process
