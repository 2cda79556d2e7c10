// The life of a guest program: its threads, its end, and the counters of its calls.
#include "vmm/linux/process.hpp"

#include <fmt/format.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <thread>

#include "vmm/kick_signal.hpp"
#include "vmm/linux/devices.hpp"
#include "vmm/linux/futex.hpp"
#include "vmm/linux/thread.hpp"
#include "vmm/linux/timers.hpp"

namespace ramet::vmm {
namespace {

constexpr std::size_t kHostStack = 256 * 1024;  // a host thread only serves calls; the guest has its own stack
constexpr int kMaxTid = 1 << 22;                // Linux's PID_MAX_LIMIT
constexpr std::size_t kMaxThreads = 4096;

// Ends the program when its time is over. A thread of its own, so that it works whatever the guest does.
class Watchdog {
 public:
  Watchdog(Process& process, std::chrono::nanoseconds timeout)
      : thread_([this, &process, timeout] {
          std::unique_lock lock(lock_);
          if (!done_.wait_for(lock, timeout, [this] { return over_; })) {
            lock.unlock();
            double seconds = std::chrono::duration<double>(timeout).count();
            process.end({Ending::Kind::TimedOut, 0, fmt::format("stopped after --timeout {}s", seconds)});
          }
        }) {}
  ~Watchdog() {
    {
      std::lock_guard guard(lock_);
      over_ = true;
    }
    done_.notify_one();
    thread_.join();
  }

 private:
  std::mutex lock_;  // guards over_
  std::condition_variable done_;
  bool over_ = false;
  std::thread thread_;  // last: starts when the rest is there
};

// Blocks every signal but the kick and the host's own faults while a host thread for the guest is made.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t set;
    sigfillset(&set);
    for (int sig : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, kick_signal()}) sigdelset(&set, sig);
    pthread_sigmask(SIG_BLOCK, &set, &old_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &old_, nullptr); }

 private:
  sigset_t old_;
};

}  // namespace

int Ending::status() const {
  switch (kind) {
    case Kind::Exited: return code & 0xff;
    case Kind::Signalled: return 128 + code;
    case Kind::TimedOut: return 124;
    case Kind::Broken: return 125;
  }
  return 125;
}

Process::Process(Machine& on, mm::AddressSpace& space, Files opened)
    : machine(on), memory(space), files(std::move(opened)), timers(std::make_unique<Timers>(*this)),
      pid(static_cast<int>(getpid())), next_tid_(pid + 1) {
  files.set_process(this);
}

Process::~Process() = default;

Ending Process::run(mm::Gva pc, mm::Gva sp, std::optional<std::chrono::nanoseconds> timeout) {
  install_kick_signal();
  auto vcpu = machine.acquire_vcpu();
  if (!vcpu) return {Ending::Kind::Broken, 0, vcpu.error().message};
  auto owned = std::make_unique<Thread>(*this, **vcpu, pid);
  Thread& first = *owned;
  first.regs() = UserRegs{};
  first.regs().set_pc(pc);
  first.regs().set_sp(sp);
  first.name = executable.substr(executable.rfind('/') + 1).substr(0, 15);
  {
    std::lock_guard guard(threads_lock);
    threads.push_back(std::move(owned));
  }
  threads_ever_.fetch_add(1, std::memory_order_relaxed);
  first_.store(&first, std::memory_order_release);
  {
    std::optional<Watchdog> watchdog;
    if (timeout) watchdog.emplace(*this, *timeout);
    first.loop();
    owned = leave(first);
    // Others may go on without the first thread, as on Linux. The host's signals still come here.
    while (std::uint32_t live = live_.load(std::memory_order_acquire)) {
      std::int64_t r = first.blocking(SYS_futex, reinterpret_cast<std::uint64_t>(&live_), FUTEX_WAIT_PRIVATE, live);
      if (r == -EINTR) {
        first.interruption_.clear();
        take_forwarded(first);
      }
    }
  }
  first_.store(nullptr, std::memory_order_release);
  machine.release_vcpu(*vcpu);
  timers.reset();
  let_go_of_pins(*this);
  if (last_gone_) pthread_join(*std::exchange(last_gone_, std::nullopt), nullptr);
  return ended();
}

Ending Process::ended() {
  std::lock_guard threads_guard(threads_lock);
  std::lock_guard guard(ending_lock_);
  return result_ ? *result_ : Ending{Ending::Kind::Exited, leader_status_, {}};
}

void* Process::thread_main(void* argument) {
  Thread& thread = *static_cast<Thread*>(argument);
  Process& process = thread.process;
  thread.loop();
  std::optional<pthread_t> before;
  {
    auto owned = process.leave(thread);
    process.machine.release_vcpu(&thread.vcpu);
    std::lock_guard guard(process.threads_lock);
    before = std::exchange(process.last_gone_, pthread_self());
  }
  // One ended host thread at most waits to be joined; its successor does it.
  if (before) pthread_join(*before, nullptr);
  if (process.live_.fetch_sub(1, std::memory_order_release) == 1)
    syscall(SYS_futex, &process.live_, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
  return nullptr;
}

// What exit(2) does for the guest, and the end of the thread's being known. On its own host thread.
std::unique_ptr<Thread> Process::leave(Thread& thread) {
  release_robust_futexes(thread);
  if (thread.clear_child_tid && !ending()) {
    // An address that is gone meanwhile is the guest's own doing, and nobody can wait there.
    if (write_user(memory, thread.clear_child_tid, std::uint32_t{0})) wake_futex(memory, thread.clear_child_tid, 1);
  }
  std::unique_ptr<Thread> owned;
  {
    std::lock_guard guard(threads_lock);
    auto it = std::ranges::find_if(threads, [&](const auto& t) { return t.get() == &thread; });
    owned = std::move(*it);
    threads.erase(it);
    if (thread.tid == pid) leader_status_ = thread.exit_status;
  }
  retarget_signals(*this, thread, ~SignalSet{0});
  return owned;
}

std::int64_t Process::spawn(const Spawn& s) {
  if (ending()) return -EAGAIN;
  auto vcpu = machine.acquire_vcpu();
  if (!vcpu) return -EAGAIN;
  auto give_up = [&](std::int64_t result) {
    machine.release_vcpu(*vcpu);
    return result;
  };
  (*vcpu)->regs() = s.regs;
  if (s.fs_base) (*vcpu)->set_fs_base(*s.fs_base);
  if (s.fp && !(*vcpu)->set_fp(*s.fp)) return give_up(-EAGAIN);
  int tid;
  {
    std::lock_guard guard(threads_lock);
    do {
      tid = next_tid_;
      next_tid_ = tid + 1 < kMaxTid ? tid + 1 : 2;
    } while (tid == pid || find_thread(tid));
  }
  if (s.set_parent_tid && !write_user(memory, s.set_parent_tid, tid)) return give_up(-EFAULT);
  // Linux stores this one from the child, which has nobody to tell of a bad address.
  if (s.set_child_tid) static_cast<void>(write_user(memory, s.set_child_tid, tid));

  auto owned = std::make_unique<Thread>(*this, **vcpu, tid);
  owned->clear_child_tid = s.clear_child_tid;
  owned->signals.blocked = s.signal_mask;
  owned->name = s.name;

  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kHostStack);
  int error = EAGAIN;
  {
    SignalsBlocked blocked;
    // Under the lock, so that end() either finds the thread or is seen here.
    std::lock_guard guard(threads_lock);
    if (!ending() && threads.size() < kMaxThreads) {
      live_.fetch_add(1, std::memory_order_relaxed);
      Thread* thread = owned.get();
      threads.push_back(std::move(owned));
      pthread_t host;
      error = pthread_create(&host, &attributes, thread_main, thread);
      if (error) {
        threads.pop_back();
        live_.fetch_sub(1, std::memory_order_relaxed);  // the caller lives too, or run() is still in its loop
      }
    }
  }
  pthread_attr_destroy(&attributes);
  if (error) return give_up(-EAGAIN);
  threads_ever_.fetch_add(1, std::memory_order_relaxed);
  return tid;
}

Thread* Process::find_thread(int tid) {
  for (auto& thread : threads)
    if (thread->tid == tid) return thread.get();
  return nullptr;
}

std::size_t Process::thread_count() {
  std::lock_guard guard(threads_lock);
  return threads.size();
}

void Process::end(Ending ending) {
  {
    std::lock_guard guard(ending_lock_);
    if (!result_) result_ = std::move(ending);
    ending_.store(true, std::memory_order_release);
  }
  std::lock_guard guard(threads_lock);
  for (auto& thread : threads) thread->alert();
}

void Process::forward_from_handler(SignalSet set) {
  forwarded_.fetch_or(set, std::memory_order_release);
  if (Thread* first = first_.load(std::memory_order_acquire)) first->interrupt();
}

void Process::take_forwarded(Thread& by) {
  if (&by != first_.load(std::memory_order_relaxed)) return;
  std::uint64_t set = forwarded_.exchange(0, std::memory_order_acquire);
  for (int sig = 1; set; ++sig, set >>= 1) {
    if (!(set & 1)) continue;
    siginfo_t info{};
    info.si_signo = sig;
    info.si_code = SI_KERNEL;
    send_to_process(*this, info);
  }
}

void Process::count_call(unsigned number, bool known) {
  (known ? calls_ : unknown_)[number].fetch_add(1, std::memory_order_relaxed);
}

namespace {
std::map<unsigned, std::uint64_t> collect(const auto& counters) {
  std::map<unsigned, std::uint64_t> result;
  for (unsigned i = 0; i < counters.size(); ++i)
    if (std::uint64_t n = counters[i].load(std::memory_order_relaxed)) result[i] = n;
  return result;
}
}  // namespace
std::map<unsigned, std::uint64_t> Process::unknown_calls() { return collect(unknown_); }
std::map<unsigned, std::uint64_t> Process::calls() { return collect(calls_); }

}  // namespace ramet::vmm
