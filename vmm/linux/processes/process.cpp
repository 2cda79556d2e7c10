// The life of a guest process: its threads, its image, its end.
#include "vmm/linux/processes/process.hpp"

#include <fmt/format.h>
#include <linux/capability.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <new>

#include "vmm/linux/files/pin_holders.hpp"
#include "vmm/linux/patiently.hpp"
#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/futex.hpp"
#include "vmm/linux/processes/thread.hpp"
#include "vmm/linux/signals/forward.hpp"
#include "vmm/linux/time/timers.hpp"
#include "vmm/linux/user_memory.hpp"

namespace ramet::vmm {
namespace {

// Gives the host thread that called Vm::run(), and is a guest's meanwhile, its nice value and processors back.
class LentThread {
 public:
  LentThread()
      : nice_(::getpriority(PRIO_PROCESS, 0)),
        bytes_(::syscall(SYS_sched_getaffinity, 0, processors_.size(), processors_.data())) {}
  ~LentThread() {
    if (::getpriority(PRIO_PROCESS, 0) != nice_) (void)::setpriority(PRIO_PROCESS, 0, nice_);  // may_have_it_back()
    // Processors that the host has taken out of service meanwhile are no error.
    if (bytes_ > 0) (void)::syscall(SYS_sched_setaffinity, 0, bytes_, processors_.data());
  }
  LentThread(const LentThread&) = delete;
  LentThread& operator=(const LentThread&) = delete;

  bool may_have_it_back() const {
    rlimit limit{};
    if (::getrlimit(RLIMIT_NICE, &limit) == 0 && static_cast<rlim_t>(20 - nice_) <= limit.rlim_cur) return true;
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3]{};
    return ::syscall(SYS_capget, &header, sets) == 0 && (sets[0].effective & (1u << CAP_SYS_NICE));
  }

 private:
  const int nice_;
  std::array<std::byte, 1024> processors_{};
  const long bytes_;
};

void wake_all(std::atomic<std::uint32_t>& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

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

int Ending::wait_status() const {
  switch (kind) {
    case Kind::Exited: return (code & 0xff) << 8;
    case Kind::Signalled: return code;
    default: return SIGKILL;
  }
}

void add_usage(rusage& sum, const rusage& more) {
  timeradd(&sum.ru_utime, &more.ru_utime, &sum.ru_utime);
  timeradd(&sum.ru_stime, &more.ru_stime, &sum.ru_stime);
  sum.ru_maxrss = std::max(sum.ru_maxrss, more.ru_maxrss);
  sum.ru_minflt += more.ru_minflt;
  sum.ru_nvcsw += more.ru_nvcsw;
  sum.ru_nivcsw += more.ru_nivcsw;
}

Process::Process(Family& of, int id, std::shared_ptr<Image> image, Files opened)
    : family(of), files(std::move(opened)), timers(std::make_unique<Timers>(*this)), pid(id),
      user(Credentials::of_vmm()->user.real), image_(std::move(image)) {
  files.set_process(this);
}

Process::~Process() { timers->stop(); }  // the serving thread uses members that are destroyed before `timers`

std::shared_ptr<Image> Process::image() const {
  LockGuard guard(image_lock_);
  return image_;
}

void Process::set_image(std::shared_ptr<Image> image) {
  LockGuard guard(image_lock_);
  image_ = std::move(image);
}

std::shared_ptr<const Credentials> Process::credentials() {
  LockGuard guard(threads_lock);
  return threads.empty() ? Credentials::of_vmm() : threads.front()->credentials();
}

std::expected<std::unique_ptr<Thread>, Failure> Process::make_thread(int tid) {
  machine().will_run(image()->executable);
  auto vcpu = machine().acquire_vcpu();
  if (!vcpu) return std::unexpected(vcpu.error());
  std::unique_ptr<Thread> thread(new (std::nothrow) Thread(*this, image(), **vcpu, tid));
  if (thread) {
    thread->nice_ = family.nice;
    return thread;
  }
  machine().release_vcpu(*vcpu);
  return failure("the host has no memory for a thread of the guest");
}

Ending Process::run(std::vector<std::unique_ptr<Thread>> all) {
  Thread& first = *all.front();
  std::unique_ptr<Thread> owned;
  {
    LockGuard guard(threads_lock);
    threads = std::move(all);
    for (const auto& thread : threads) {
      family.count_thread();
      if (thread.get() == &first || family.start(shared_from_this(), thread.get())) continue;
      LockGuard ending_guard(ending_lock_);
      result_ = Ending{Ending::Kind::Broken, 0, "the host has no threads for those of the program"};
      ending_.store(true, std::memory_order_release);
      threads.resize(static_cast<std::size_t>(&thread - threads.data()));  // the others never began
      break;
    }
  }
  first_.store(&first, std::memory_order_release);
  const LentThread lent;
  first.fixed_nice_ = !lent.may_have_it_back();
  first.loop();
  leave(first, owned);
  // Others may go on without the first thread, as on Linux. The host's signals still come here.
  for (;;) {
    const std::uint32_t seen = departures_.load(std::memory_order_acquire);
    if (thread_count() == 0) break;
    std::int64_t r = first.blocking(SYS_futex, reinterpret_cast<std::uint64_t>(&departures_), FUTEX_WAIT_PRIVATE, seen);
    if (r == -EINTR) {
      first.interruption_.clear();
      take_forwarded(first);
    }
  }
  first_.store(nullptr, std::memory_order_seq_cst);
  ForwardSignals::wait_for_handlers();
  return patiently([&] { return ended(); });
}

Ending Process::ended() {
  LockGuard threads_guard(threads_lock);
  LockGuard guard(ending_lock_);
  return result_ ? *result_ : Ending{Ending::Kind::Exited, leader_status_, {}};
}

// What exit(2) does in the guest's memory; then removes the thread. On its own host thread.
bool Process::leave(Thread& thread, std::unique_ptr<Thread>& owned) {
  try {
    thread.release_memory(!ending());
  } catch (const std::exception& failed) {
    thread.end_for(failed);
  }
  bool last;
  const auto elsewhere = thread.elsewhere();  // final; not under the lock, as the host may take time to tell
  {
    LockGuard guard(threads_lock);
    const rusage used = thread.usage(elsewhere);
    const auto time = thread.processor_time(elsewhere);
    auto it = std::ranges::find_if(threads, [&](const auto& t) { return t.get() == &thread; });
    owned = std::move(*it);
    threads.erase(it);
    last = threads.empty();
    if (thread.tid == pid) leader_status_ = thread.exit_status;
    add_usage(gone_, used);
    gone_time_ += time;
  }
  if (!last) retarget_signals(*this, thread, ~SignalSet{0});
  departures_.fetch_add(1, std::memory_order_release);
  wake_all(departures_);
  return last;
}

void Process::finish() {
  timers->stop();
  patiently([&] { let_go_of_pins(*this); });  // before the memory goes
  files.close_all();
  const rusage used = usage();
  set_image(nullptr);
  tell_vfork_parent();
  const Ending ending = patiently([&] { return ended(); });
  patiently([&] { family.exited(*this, ending, used); });
}

void Process::tell_vfork_parent() {
  if (!vfork_done) return;
  vfork_done->store(1, std::memory_order_release);
  wake_all(*vfork_done);
}

std::int64_t Process::spawn(const Spawn& s) {
  if (ending() || survivor()) return -EAGAIN;
  auto image = this->image();
  auto vcpu = image->machine().acquire_vcpu();
  if (!vcpu) return -EAGAIN;
  // What a thread costs the host: the touched pages of two stacks, a task, a vCPU.
  constexpr std::uint64_t kThreadBytes = 32 * 1024;
  mm::Charge charge(image->memory().account());
  if (!s.leader && !charge.grow(kThreadBytes)) {
    image->machine().release_vcpu(*vcpu);
    return -EAGAIN;
  }
  const int tid = s.leader ? pid : family.new_id();
  std::unique_ptr<Thread> owned(new (std::nothrow) Thread(*this, image, **vcpu, tid));
  if (!owned) {
    image->machine().release_vcpu(*vcpu);
    return -EAGAIN;
  }
  owned->charge = std::move(charge);
  (*vcpu)->regs() = s.regs;
  for (unsigned n = 0; n < image->abi.bases; ++n) (*vcpu)->set_base(n, s.bases[n]);
  if (s.fp) (*vcpu)->copy_fp(*s.fp);
  // Bad addresses are ignored, as on Linux.
  if (s.set_parent_tid) (void)write_user(image->memory(), s.set_parent_tid, tid);
  if (s.set_child_tid) (void)write_user(image->memory(), s.set_child_tid, tid);
  owned->clear_child_tid = s.clear_child_tid;
  owned->signals.blocked = s.signal_mask;
  if (s.altstack_of) owned->signals.altstack = s.altstack_of->altstack;
  owned->set_name(s.name);
  owned->set_credentials(*s.credentials);
  owned->nice_ = s.nice;
  owned->scheduling = s.scheduling;
  if (s.nice != family.nice) (void)owned->set_nice(s.nice);  // the creator's host thread has it, too
  if (!s.affinity.empty()) (void)owned->set_affinity(s.affinity);
  owned->look_at_signals();  // signals may have been sent before the thread was there

  {
    // Under the lock, so that end() and become() either find the thread or are seen here.
    LockGuard guard(threads_lock);
    if (ending() || survivor()) return -EAGAIN;
    Thread* thread = owned.get();
    threads.push_back(std::move(owned));
    if (!family.start(shared_from_this(), thread)) {
      owned = std::move(threads.back());
      threads.pop_back();
      return -EAGAIN;
    }
  }
  family.count_thread();
  return tid;
}

bool Process::become(Thread& caller, std::shared_ptr<Image> next, Vcpu& vcpu) {
  {
    LockGuard guard(threads_lock);
    if (ending() || survivor()) return false;
    survivor_.store(&caller, std::memory_order_release);
    for (auto& thread : threads)
      if (thread.get() != &caller) thread->alert();
  }
  for (;;) {
    const std::uint32_t seen = departures_.load(std::memory_order_acquire);
    if (thread_count() == 1) break;
    caller.wait_while(departures_, seen);
    if (ending()) return false;
  }
  caller.release_memory(true);
  caller.rings = {};
  let_go_of_pins(*this);
  auto old = image();
  const std::uint64_t peak = old->memory().usage().peak_bytes;
  {
    LockGuard guard(threads_lock);
    peak_bytes_ = std::max(peak_bytes_, peak);
    caller.move_to(next, vcpu, pid);
    survivor_.store(nullptr, std::memory_order_release);
  }
  set_image(std::move(next));
  ForwardSignals::wait_for_handlers();  // a handler may have been about to kick the old vCPU
  old.reset();
  tell_vfork_parent();
  vfork_done.reset();
  return true;
}

void Process::interrupt_threads() {
  LockGuard guard(threads_lock);
  for (auto& thread : threads)
    if (!thread->is_current()) thread->interrupt();
}

Thread* Process::find_thread(int tid) {
  for (auto& thread : threads)
    if (thread->goes_by(tid)) return thread.get();
  return nullptr;
}

std::size_t Process::thread_count() {
  LockGuard guard(threads_lock);
  return threads.size();
}

void Process::end(Ending ending) {
  {
    LockGuard guard(ending_lock_);
    if (!result_) result_ = std::move(ending);
    ending_.store(true, std::memory_order_release);
  }
  LockGuard guard(threads_lock);
  for (auto& thread : threads) thread->alert();
}

void Process::forward_from_handler(SignalSet set, bool from_terminal) {
  (from_terminal ? forwarded_terminal_ : forwarded_).fetch_or(set, std::memory_order_release);
  if (Thread* first = first_.load(std::memory_order_seq_cst)) first->interrupt();
}

void Process::take_forwarded(Thread& by) {
  if (&by != first_.load(std::memory_order_relaxed)) return;
  auto each = [](SignalSet set, auto send) {
    for (int sig = 1; set; ++sig, set >>= 1) {
      if (!(set & 1)) continue;
      siginfo_t info{};
      info.si_signo = sig;
      info.si_code = SI_KERNEL;
      send(info);
    }
  };
  each(forwarded_.exchange(0, std::memory_order_acquire), [&](const siginfo_t& info) { send_to_process(*this, info); });
  each(forwarded_terminal_.exchange(0, std::memory_order_acquire), [&](const siginfo_t& info) {
    for (auto& process : family.group(family.foreground())) send_to_process(*process, info);
  });
}

rusage Process::usage() {
  auto image = this->image();
  const std::uint64_t peak = image ? image->memory().usage().peak_bytes : 0;
  LockGuard guard(threads_lock);
  rusage sum = gone_;
  for (auto& thread : threads) add_usage(sum, thread->usage());
  sum.ru_maxrss = static_cast<long>(std::max(peak, peak_bytes_) >> 10);
  return sum;
}

std::chrono::nanoseconds Process::processor_time() {
  LockGuard guard(threads_lock);
  std::chrono::nanoseconds sum = gone_time_;
  for (auto& thread : threads) sum += thread->processor_time();
  return sum;
}

}  // namespace ramet::vmm
