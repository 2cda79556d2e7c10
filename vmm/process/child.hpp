// The host process that a guest runs in: made, given descriptors and threads, told what to map, and ended.
//
// Its first thread, the mapper, never runs guest code: it carries out what the VMM asks for while guest threads run.
// The process ends with the VMM, however that comes, and nobody else's waitpid(2) sees it.
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
  std::expected<void, int> carry_out(std::span<const Command>) override;
  std::expected<std::array<int, kMostGiven>, int> give(std::span<const int> descriptors) override;
  std::expected<void, int> take_back(int number) override;
  std::expected<void, int> take_all_back(std::span<const Command> then) override;
  // A thread that stands in its first trap, in the context of that number, which had none. Its listener is not usable
  // where descriptors are few. Errors as of carry_out().
  struct Thread {
    int id = -1;
    Listener listener;
  };
  std::expected<Thread, int> make_thread(unsigned number);

  // Where the host's vDSO is in it; all 0: it is not, as the host has none, or does not map it where it is asked to.
  const arch::VdsoFunctions& vdso() const { return vdso_; }

  // Whether it runs. It may have ended by itself, or by the host's shortage of memory.
  bool alive();
  // Ends it now.
  void kill();
  // One of its threads, as signal() is told of it.
  struct Who {
    int process, thread;
  };
  Who who(int thread) const { return {pid_, thread}; }
  // Sends a signal to that thread. Async-signal-safe. The process is reaped with its Child, so until then its id is
  // nobody else's; a thread or process that has ended needs no signal.
  static void signal(Who, int signal);
  // Of one of its threads: the processor time that it has used, with its mapper's if it is the only one. The host may
  // count a running one some milliseconds late. 0: it has ended.
  std::chrono::nanoseconds time_of(int thread) const;
  // As setpriority(2) and sched_setaffinity(2). 0 or errno.
  int set_nice(int thread, int nice) const;
  int bind(int thread, std::span<const std::byte> processors) const;
  // Back to what the process began with, which its mapper still has.
  int unset_nice(int thread) const;
  int unbind(int thread) const;
  // As long as the process lives, and for ten seconds that neither it nor the VMM was stopped in.
  bool patient(unsigned& silent) override;
  // For Context::wait(): the same; without a limit, as long as it lives.
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
  Status start();
  // Waits for that. False: the process has ended, or was killed for not answering.
  bool answered(const Context&);
  // With mapper_lock_ held:
  std::expected<void, int> ask(std::span<const Command>);
  std::optional<int> free_number(int from = 0) const
      RAMET_REQUIRES(mapper_lock_);  // of a descriptor there, the lowest from there on
  std::expected<Listener, int> fetch_listener(int number);  // which is then no longer in use there
  bool stopped() const;
  std::chrono::nanoseconds time_of_all() const;

  const bool hardened_;
  std::shared_ptr<ChildMaker> maker_;
  int pid_ = -1, pidfd_ = -1, socket_ = -1;
  std::byte* contexts_ = nullptr;
  arch::VdsoFunctions vdso_;
  Mutex mapper_lock_;  // one request at a time. A leaf but for what waiting takes: nothing
  // Threads made, and what the mapper had used before: written once, before there is one. Release; acquire in
  // time_of().
  std::atomic<unsigned> threads_{0};
  std::chrono::nanoseconds before_threads_{0};
  std::bitset<1024> numbers_ RAMET_GUARDED_BY(
      mapper_lock_);  // descriptors in use there, guarded by mapper_lock_: the kernel takes the lowest free one
  std::atomic<bool> ended_{false};  // seen to have ended, or killed. Relaxed: a hint that saves a call
  Mutex reaping_;  // a leaf
  bool reaped_ RAMET_GUARDED_BY(reaping_) = false;
};

}  // namespace ramet::vmm::process
