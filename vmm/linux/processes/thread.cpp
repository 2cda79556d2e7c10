// The loop of one guest thread: enter the guest, serve what it came out for, deliver signals, repeat.
#include "vmm/linux/processes/thread.hpp"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "vmm/host_time.hpp"
#include "vmm/kick_signal.hpp"
#include "vmm/linux/processes/family.hpp"
#include "vmm/linux/processes/fatal.hpp"
#include "vmm/linux/processes/futex.hpp"
#include "vmm/linux/program/vdso.hpp"
#include "vmm/linux/time/guest_time.hpp"
#include "vmm/linux/user_memory.hpp"

namespace ramet::vmm {

void Thread::start_at(mm::Gva pc, mm::Gva sp) {
  regs() = abi().initial_registers();
  regs()[abi().reg.pc] = pc;
  regs()[abi().reg.sp] = sp;
}

Thread::~Thread() {
  process.family.add_calls(calls_);
  image_->machine().release_vcpu(&vcpu());
}

void Thread::begin() {
  LockGuard guard(process.threads_lock);  // set_nice() and set_affinity() either come before, or find the host thread
  host_.store(pthread_self(), std::memory_order_release);
  host_id_ = static_cast<pid_t>(syscall(SYS_gettid));
  running_.store(true, std::memory_order_release);
  (void)schedule_host_thread();  // its creator was told of what the host refuses
}

void Thread::loop() {
  begin();
  install_kick_signal();
  serve({.kind = Exit::Kind::Kicked, .detail = {}});
  while (!exited && !must_end()) {
    if (process.parking.asked() && may_park()) process.parking.park();
    run_once();
  }
}

void Thread::run_once() noexcept {
  try {
    image().cuts.make(memory());
    const Exit exit = vcpu().run();
    image().cuts.make(memory());
    handle(exit);
  } catch (const std::exception& failed) {
    end_for(failed);
  }
}

void Thread::serve(const Exit& e) noexcept {
  try {
    handle(e);
  } catch (const std::exception& failed) {
    end_for(failed);
  }
}

void Thread::end_for(const std::exception& failed) noexcept {
  // `ramet` itself tells of the first process. Nothing is allocated here but the message, which may be missing.
  if (process.pid != process.family.first_id())
    ::dprintf(STDERR_FILENO, "ramet: process %d was ended: the host cannot serve it (%s)\n", process.pid,
              failed.what());
  process.end(host_failed(failed));
}

bool Thread::step_out(unsigned most) {
  if (!in_vdso(image(), pc())) {
    steps_ = runs_ = 0;
    return false;
  }
  if (stepping_) return true;
  if (steps_ >= most) return false;
  ++steps_;
  stepping_ = true;
  single_steps_ = regs()[abi().reg.flags] & abi().step_flag;
  regs()[abi().reg.flags] |= abi().step_flag;
  return true;
}

bool Thread::may_park() {
  constexpr unsigned kFewSteps = 200, kMostRuns = 1000;
  if (step_out(kFewSteps)) return false;
  if (!in_vdso(image(), pc()) || runs_ == kMostRuns) return true;
  // The host's function starts over if its clock was updated meanwhile: single steps may be too slow for it to end.
  ++runs_;
  steps_ = 0;
  return false;
}

void Thread::handle(const Exit& e) {
  if (std::exchange(stepping_, false)) {
    auto& flags = regs()[abi().reg.flags];
    flags = single_steps_ ? flags | abi().step_flag : flags & ~abi().step_flag;
    const bool step = e.kind == Exit::Kind::Exception && e.trap == abi().trap.step && !single_steps_;
    if (step) return handle({.kind = Exit::Kind::Kicked, .detail = {}});
  }
  switch (e.kind) {
    case Exit::Kind::Syscall: dispatch(*this); return;  // delivers signals itself: it knows the result
    case Exit::Kind::PageFault: page_fault(e); break;
    case Exit::Kind::Exception: send_fault(*this, e.signal, e.code, e.address, e.trap, e.error); break;
    case Exit::Kind::Kicked: break;
    case Exit::Kind::HostFault:
      send_fault(*this, SIGBUS, BUS_ADRERR, e.address, abi().trap.page, abi().page_fault_error(true, false, false));
      break;
    case Exit::Kind::Broken: process.end({Ending::Kind::Broken, 0, e.detail}); return;
  }
  if (interruption_.raised() && !has_fault() && step_out()) return;
  deliver_signals(*this, kNoResult);
}

bool Thread::has_fault() const {
  LockGuard guard(process.signals.lock);
  return !signals.faults.empty();
}

void Thread::page_fault(const Exit& e) {
  auto outcome = memory().fault(e.address, e.access);
  if (outcome) {
    if (outcome->kind == mm::FaultOutcome::Kind::Spurious) vcpu().spurious_fault();
    return;
  }
  // Linux does not tell user code what is mapped in the kernel's half: it always looks present.
  const bool present = e.present || static_cast<std::int64_t>(e.address) < 0;
  const auto error = abi().page_fault_error(present, e.access == mm::Access::Write, e.access == mm::Access::Execute);
  switch (outcome.error()) {
    case mm::Error::NotPermitted: send_fault(*this, SIGSEGV, SEGV_ACCERR, e.address, abi().trap.page, error); break;
    case mm::Error::BeyondEnd:
    case mm::Error::Io: send_fault(*this, SIGBUS, BUS_ADRERR, e.address, abi().trap.page, error); break;
    case mm::Error::NoMemory: process.end(out_of_memory(*this)); break;
    default: send_fault(*this, SIGSEGV, SEGV_MAPERR, e.address, abi().trap.page, error); break;
  }
}

std::string Thread::name() const {
  LockGuard guard(name_lock_);
  return name_;
}

void Thread::set_name(std::string name) {
  LockGuard guard(name_lock_);
  name_ = std::move(name);
}

bool Thread::is_current() const {
  return running_.load(std::memory_order_acquire) &&
         pthread_equal(host_.load(std::memory_order_acquire), pthread_self());
}

void Thread::raise(int sig) {
  // It cannot fail: the thread is there, and a signal that is queued once finds room.
  (void)send_to_thread(process, tid, signal_from(process, sig, SI_USER));
}

void Thread::interrupt() {
  if (running_.load(std::memory_order_acquire)) interruption_.raise(host_.load(std::memory_order_acquire));
  else interruption_.set();  // loop() looks before it enters the guest
  vcpu().kick();
}

std::int64_t Thread::blocking(long number, std::uint64_t a, std::uint64_t b, std::uint64_t c, std::uint64_t d,
                              std::uint64_t e, std::uint64_t f) {
  return interruption_.wait(number, {a, b, c, d, e, f});
}

void Thread::wait_while(std::atomic<std::uint32_t>& word, std::uint32_t value, bool killable) {
  bool interrupted = false;
  while (word.load(std::memory_order_acquire) == value && !must_end()) {
    std::int64_t r = blocking(SYS_futex, reinterpret_cast<std::uint64_t>(&word), FUTEX_WAIT_PRIVATE, value);
    if (r != -EINTR) continue;
    interruption_.clear();
    interrupted = true;
    process.take_forwarded(*this);
    if (const int sig = killable ? fatal_signal() : 0) process.end(killed_by(sig));
  }
  if (interrupted) look_at_signals();
}

int Thread::fatal_signal() {
  LockGuard guard(process.signals.lock);
  SignalSet pending = (signals.pending.set | process.signals.pending.set) & ~signals.blocked;
  for (pending &= ~(kDefaultIgnored | kStopSignals); pending; pending &= pending - 1) {
    const auto n = static_cast<std::size_t>(std::countr_zero(pending));
    if (process.signals.actions[n].handler == 0) return static_cast<int>(n) + 1;
  }
  return 0;
}

void Thread::release_memory(bool clear_tid) {
  release_robust_futexes(*this);
  robust_list = 0;
  const mm::Gva at = std::exchange(clear_child_tid, 0);
  if (!at || !clear_tid) return;
  // If the address is not mapped any more, no thread can wait there.
  if (write_user(memory(), at, std::uint32_t{0})) wake_futex(memory(), at, 1);
}

void Thread::move_to(std::shared_ptr<Image> next, Vcpu& on, int new_tid) {
  elsewhere_before_ += vcpu().time_elsewhere();
  image_->machine().release_vcpu(&vcpu());
  vcpu_.store(&on, std::memory_order_seq_cst);
  image_ = std::move(next);
  tid = new_tid, former_tid = 0;
  if (host_nice() != process.family.nice)
    (void)on.set_nice(host_nice());  // the image's host process began with the VMM's value
  if (!affinity_.empty()) (void)on.set_affinity(affinity_);
}

// --- processor time, priority, processors ---

std::chrono::nanoseconds Thread::processor_time(std::chrono::nanoseconds elsewhere) {
  std::chrono::nanoseconds used = elsewhere;
  clockid_t clock;
  if (running_.load(std::memory_order_acquire) &&
      pthread_getcpuclockid(host_.load(std::memory_order_acquire), &clock) == 0)
    used += host_time(clock).value_or(std::chrono::nanoseconds{});
  return used;
}

rusage Thread::usage(std::chrono::nanoseconds elsewhere) {
  rusage used{};
  const auto add = [&used](std::chrono::nanoseconds user) {
    const timeval more = to_timeval(to_timespec(user));
    timeradd(&used.ru_utime, &more, &used.ru_utime);
  };
  if (is_current()) {
    getrusage(RUSAGE_THREAD, &used);
    add(elsewhere);
  } else {
    add(processor_time(elsewhere));
  }
  return used;
}

void Thread::set_credentials(Credentials wanted) {
  const auto& first = Credentials::of_vmm();
  auto now = wanted == *first ? first : std::make_shared<const Credentials>(std::move(wanted));
  LockGuard guard(process.threads_lock);
  if (now != first) process.other_ids.store(true, std::memory_order_release);
  if (tid == process.pid) process.user.store(now->user.real, std::memory_order_relaxed);
  credentials_ = std::move(now);
}

int Thread::host_nice() const { return std::max(nice_, process.family.nice); }

int Thread::set_nice(int nice) {
  const bool nearer = nice < nice_;
  nice_ = nice;
  int elsewhere = vcpu().set_nice(host_nice());
  int here = running_.load(std::memory_order_acquire) ? schedule_host_thread() : 0;
  // A guest may lower its value again where the VMM may not lower that of host threads: theirs stay.
  for (int* e : {&elsewhere, &here})
    if (nearer && (*e == EACCES || *e == EPERM)) *e = 0;
  return elsewhere ? elsewhere : here;
}

int Thread::set_affinity(std::vector<std::byte> processors) {
  affinity_ = std::move(processors);
  if (vcpu().elsewhere()) return vcpu().set_affinity(affinity_);
  return running_.load(std::memory_order_acquire) ? schedule_host_thread() : 0;
}

int Thread::schedule_host_thread() {
  if (!fixed_nice_) {
    const int now = getpriority(PRIO_PROCESS, static_cast<id_t>(host_id_));
    if (now != host_nice() && setpriority(PRIO_PROCESS, static_cast<id_t>(host_id_), host_nice()) != 0) return errno;
  }
  if (vcpu().elsewhere() || affinity_.empty()) return 0;
  return syscall(SYS_sched_setaffinity, host_id_, affinity_.size(), affinity_.data()) == 0 ? 0 : errno;
}

bool Thread::should_stop_waiting() {
  interruption_.clear();  // first: what comes after this interrupts again
  process.take_forwarded(*this);
  bool stop = must_end() || process.parking.asked();
  if (!stop) {
    LockGuard guard(process.signals.lock);
    stop = ((signals.pending.set | process.signals.pending.set) & ~signals.blocked) != 0 || !signals.faults.empty();
  }
  if (stop) interruption_.set();
  return stop;
}

void Thread::set_temporary_mask(SignalSet set) {
  SignalSet old;
  {
    LockGuard guard(process.signals.lock);
    old = signals.blocked;
  }
  set_blocked(*this, set);
  LockGuard guard(process.signals.lock);
  signals.saved_mask = old;
}

}  // namespace ramet::vmm
