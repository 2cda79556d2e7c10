// Family: all processes of one guest, in one VMM process (Linux: a pid namespace): their ids, who is whose parent,
// groups and sessions, zombies and waiting. Each process has a microVM of its own.
//
// Ids are the first process's host pid and what follows it; they mean nothing on the host, and no id of the host means
// anything here. Orphans have no parent in the family: getppid(2) says 1, and they are reaped at once.
#pragma once

#include <sys/resource.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <expected>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "guest-mm/thread_annotations.hpp"
#include "vmm/counters.hpp"
#include "vmm/linux/files/async.hpp"
#include "vmm/linux/files/lease.hpp"
#include "vmm/linux/memory/sysv.hpp"
#include "vmm/linux/processes/process.hpp"
#include "vmm/linux/syscall.hpp"
#include "vmm/linux/time/clocks.hpp"
#include "vmm/shell_pool.hpp"

namespace ramet::vmm {

class SocketNames;

class Family {
 public:
  // `like`: what the shells of further processes are to be like; it outlives the family.
  explicit Family(Shell& like, int first_id = 0);    // 0: the host's id of this process
  ~Family();
  Family(const Family&) = delete;
  Family& operator=(const Family&) = delete;

  static constexpr unsigned kMaxThreads = 4096;      // of all processes

  // --- ids: of processes, threads, groups and sessions in one space ---
  int first_id() const { return first_; }
  int new_id() RAMET_EXCLUDES(lock_);
  bool in_use(int id) RAMET_EXCLUDES(lock_);  // some process, thread, group or session has it
  std::shared_ptr<Process> find(int pid) RAMET_EXCLUDES(lock_);  // null: none, or a zombie
  std::shared_ptr<Process> find_by_thread(int tid) RAMET_EXCLUDES(lock_);
  // By the id of a process, or of one of its threads; not by Thread::former_tid.
  std::shared_ptr<Process> find_by_any(int id) RAMET_EXCLUDES(lock_);
  // Returns what `call` does for the thread of that id (0: the caller), under its process's threads_lock. -ESRCH: there
  // is no such thread.
  std::int64_t with_thread(Thread& caller, int tid, const std::function<std::int64_t(Thread&)>& call)
      RAMET_EXCLUDES(lock_);
  bool exists(int pid) RAMET_EXCLUDES(lock_);  // zombies do
  std::vector<std::shared_ptr<Process>> all() RAMET_EXCLUDES(lock_);  // that run
  std::vector<std::shared_ptr<Process>> group(int id) RAMET_EXCLUDES(lock_);
  std::size_t size() RAMET_EXCLUDES(lock_);  // zombies count
  static constexpr int kMaxId = 1 << 22;  // ids are below (Linux's PID_MAX_LIMIT)

  // --- coming and going ---
  // Adds the process, as a child of `parent` (0: of none). Errors: EAGAIN (there are `limit` or Limits::kProcesses
  // already, or the family ends).
  std::expected<void, int> add(const std::shared_ptr<Process>&, int parent, int exit_signal, std::uint64_t limit)
      RAMET_EXCLUDES(lock_);
  // Removes a process that could not be started after all.
  void forget(int pid) RAMET_EXCLUDES(lock_);
  // The process has released everything. Its children go to a subreaper or are orphans; its parent is told.
  void exited(Process&, const Ending&, const rusage& usage) RAMET_EXCLUDES(lock_);
  void executed(int pid) RAMET_EXCLUDES(lock_);  // execve(2): exit signal back to SIGCHLD, setpgid(2) refused
  // The first process has ended, and all others end with it, as in a pid namespace. Waits for their host threads.
  void end_all() RAMET_EXCLUDES(lock_);

  // Starts a host thread for a thread that is in the process's list already. False: there are kMaxThreads, or the host
  // has none.
  bool start(const std::shared_ptr<Process>&, Thread*);
  unsigned threads_ever() const { return threads_ever_.load(std::memory_order_relaxed); }
  void count_thread() { threads_ever_.fetch_add(1, std::memory_order_relaxed); }

  // --- shells ---
  // When the last user of the shell lets go of it, its counters are added to gone(), and it goes back to the pool.
  std::shared_ptr<Shell> pooled(std::unique_ptr<Shell>);
  // The counters of shells that have gone.
  struct Gone {
    Machine::Totals totals{};
    Counts memory;  // list(const mm::Counters&); empty: none has gone
  };
  Gone gone() RAMET_EXCLUDES(gone_lock_);

  // --- relations; pid 0 does not stand for the caller here ---
  struct Relations {
    int parent = 0, group = 0, session = 0;
    char state = 'R';  // as proc(5) has it
  };
  std::optional<Relations> relations(int pid) RAMET_EXCLUDES(lock_);  // zombies, too
  std::expected<void, int> set_group(int caller, int pid, int group) RAMET_EXCLUDES(lock_);  // setpgid(2)
  std::expected<int, int> new_session(int pid) RAMET_EXCLUDES(lock_);  // setsid(2)
  bool orphaned_group(int group) RAMET_EXCLUDES(lock_);  // as POSIX defines it: no parent elsewhere in its session
  void set_subreaper(int pid, bool) RAMET_EXCLUDES(lock_);
  bool subreaper(int pid) RAMET_EXCLUDES(lock_);
  void set_death_signal(int pid, int sig) RAMET_EXCLUDES(lock_);
  int death_signal(int pid) RAMET_EXCLUDES(lock_);
  // The terminal's foreground group. Errors: EPERM, if there is no such group in the session.
  int foreground() RAMET_EXCLUDES(lock_);
  std::expected<void, int> set_foreground(int session, int group) RAMET_EXCLUDES(lock_);

  // --- waiting ---
  struct Request {
    enum class Which : std::uint8_t { Any, Pid, Group } which = Which::Any;
    int id = 0;
    int options = 0;  // WEXITED, WSTOPPED, WCONTINUED, WNOWAIT, __WALL, __WCLONE
  };
  struct Child {
    int pid = 0, code = 0, value = 0;  // CLD_*; exit status or signal
    unsigned user = 0;  // its real user id
    int status = 0;  // as wait4(2) gives it
    rusage usage{};
  };
  // What has happened to a child of `parent`; none: nothing yet. Errors: ECHILD.
  std::expected<std::optional<Child>, int> reap(int parent, const Request&) RAMET_EXCLUDES(lock_);
  // A futex word that changes when something happens to a child. Valid while a thread of `pid` lives.
  std::atomic<std::uint32_t>& events(int pid) RAMET_EXCLUDES(lock_);
  // Tell the parent that the process was stopped, or continued. They are called after locks were released, so two calls
  // may come in the wrong order: `change` is what ProcessSignals::changes was, and the later change stays.
  void stopped(int pid, int sig, std::uint64_t change) RAMET_EXCLUDES(lock_);
  void continued(int pid, std::uint64_t change) RAMET_EXCLUDES(lock_);
  rusage children_usage(int pid) RAMET_EXCLUDES(lock_);  // of those that were waited for

  SysvMemory sysv_memory;  // of all its processes, as are the next four
  const std::unique_ptr<SocketNames> sockets;  // see sockets.hpp
  const std::shared_ptr<Leases> leases = std::make_shared<Leases>();
  const std::shared_ptr<AsyncFiles> async_files = std::make_shared<AsyncFiles>(*this);
  Clocks clocks;  // set before the first process runs
  std::uint64_t generation = 0;  // snapshots that the first process has come through; set before it runs
  const std::array<unsigned char, 16> boot_id;  // random: another one in each run and in each copy
  const int nice;  // the VMM's nice value: no host thread of a guest has a lower one
  const std::vector<std::byte> processors;  // those the VMM may run on, as sched_getaffinity(2) gives them

  // --- counters of calls, by number ---
  std::map<Call, std::uint64_t> calls() const, unknown_calls() const;
  // Adds what a thread has counted (Thread::count_call()), at its end. Calls that were answered ENOSYS are counted
  // here.
  void add_calls(std::span<const std::uint64_t, arch::kMostCalls> counted);
  void count_unknown(Call call) { unknown_[static_cast<std::size_t>(call)].fetch_add(1, std::memory_order_relaxed); }

 private:
  struct Member {
    std::shared_ptr<Process> process;  // null: a zombie
    int parent = 0, group = 0, session = 0;
    int exit_signal = 0, death_signal = 0;
    bool subreaper = false, executed = false;
    int status = 0;  // of a zombie, as wait4(2) gives it
    unsigned user = 0;  // of a zombie: its real user id
    int stop_signal = 0;  // it is stopped
    int untold_stop = 0;  // the signal, until a wait has told of it
    bool untold_continue = false;
    std::uint64_t change = 0;  // ProcessSignals::changes of the last one that came
    rusage usage{}, children{};
    std::atomic<std::uint32_t> events{0};
    siginfo_t end_info(int pid) const;  // SIGCHLD's, of a zombie
  };
  using Members = std::map<int, Member>;
  // Signals that are sent once the lock is released.
  using Letters = std::vector<std::pair<std::shared_ptr<Process>, siginfo_t>>;

  // SIGCHLD's of a child, with that CLD_ code; `value`: its exit status or signal.
  static siginfo_t child_info(int pid, unsigned user, int code, int value);
  Member* member(int pid) RAMET_REQUIRES(lock_);  // null: none
  bool in_use_locked(int id) RAMET_REQUIRES(lock_);
  bool group_in(int session, int group) const RAMET_REQUIRES(lock_);
  // Wakes the parent's waits, and sends it `sig` (0: none): SIGCHLD at once, others by a letter.
  void tell_parent(Member& parent, int sig, const siginfo_t&, Letters&) RAMET_REQUIRES(lock_);
  Members::iterator bury(Members::iterator) RAMET_REQUIRES(lock_);
  void changed(int pid, int code, int sig, std::uint64_t change) RAMET_EXCLUDES(lock_);
  static void send(Process&, const siginfo_t&);
  static void send(const Letters&);
  static void* host_thread(void*);
  std::expected<std::unique_ptr<Shell>, Failure> new_shell(const MakeShell&);
  MakeShell warm() {
    return [this] { return pool_.take(); };
  }

  const int first_;
  Shell& like_;
  ShellPool pool_;
  Mutex gone_lock_;  // innermost
  Gone gone_ RAMET_GUARDED_BY(gone_lock_);
  Mutex lock_;  // order: before Process::threads_lock
  Members members_ RAMET_GUARDED_BY(lock_);
  int next_id_ RAMET_GUARDED_BY(lock_);
  int foreground_ RAMET_GUARDED_BY(lock_);
  bool closing_ RAMET_GUARDED_BY(lock_) = false;
  // The host thread that ended last; joined by the next that ends.
  std::optional<pthread_t> last_gone_ RAMET_GUARDED_BY(lock_);

  // Host threads of the family but the caller's; a futex word. Pairs: the decrement at the end of each host thread
  // (release) with end_all()'s load (acquire).
  std::atomic<std::uint32_t> live_{0};
  std::atomic<unsigned> threads_ever_{0};  // a statistic
  std::array<std::atomic<std::uint64_t>, arch::kMostCalls> calls_{}, unknown_{};  // statistics
};

}  // namespace ramet::vmm
