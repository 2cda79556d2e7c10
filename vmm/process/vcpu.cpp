// ProcessVcpu::run(): into guest code and back, and what came back.
#include "vmm/process/vcpu.hpp"

#include <fmt/format.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "arch/process_stub.hpp"
#include "vmm/kick_signal.hpp"

namespace ramet::vmm::process {

namespace {

constexpr unsigned kMostRefusals = 3;

Exit broken(std::string why) {
  Exit e;
  e.kind = Exit::Kind::Broken;
  e.detail = std::move(why);
  return e;
}

Exit exception(const arch::HostTrap& trap) {
  Exit e;
  e.kind = Exit::Kind::Exception;
  e.signal = trap.signal;
  e.code = trap.code;
  e.address = trap.address;
  e.trap = trap.trap;
  e.error = trap.error;
  return e;
}

}  // namespace

ProcessVcpu::ProcessVcpu(ProcessMachine& machine, unsigned number, Child::Thread thread)
    : machine_(machine), listener_(std::move(thread.listener)), who_(machine.child_->who(thread.id)),
      thread_(thread.id) {
  slot_.context = machine.child_->context(number);
  slot_.context.set_listener(listener_);
  frame_ = arch::find_host_frame(slot_.context.said(), slot_.context.said_at());
  machine_.mirror_->add(slot_);
  reset_fp();
}

ProcessVcpu::~ProcessVcpu() { machine_.mirror_->remove(slot_); }

void ProcessVcpu::recycle() {
  reset_fp();
  LockGuard stay(staying_);
  SharedLock here(machine_.here_);
  regs_ = arch::host_abi().initial_registers();
  bases_ = {}, bases_changed_ = true;
  wish_.reset();
  take_kick();
  used_before_ = used_.load(std::memory_order_relaxed);  // up to date: the former user asks at its end
  LockGuard scheduling(scheduling_);
  if (!affinity_.empty()) machine_.child_->unbind(thread_);
  affinity_.clear();
}

// --- into another process ---

std::unique_lock<Mutex> ProcessVcpu::come_out() {
  if (slot_.inside.load(std::memory_order_seq_cst)) Child::signal(who_.load(std::memory_order_relaxed), kick_signal());
  return std::unique_lock(staying_);  // bounded by the time-out of a kick
}

void ProcessVcpu::move_to(Child& child, Mirror& mirror, unsigned number, Child::Thread thread) {
  assert_out();
  if (frame_ && !fp_) arch::read_host_fp(slot_.context.said(), *frame_, fp_.emplace());
  used_in_others_ += machine_.child_->time_of(thread_).count();
  machine_.mirror_->remove(slot_);
  listener_ = std::move(thread.listener);
  slot_.context = child.context(number);
  slot_.context.set_listener(listener_);
  slot_.list = 0;
  slot_.changes.clear();
  slot_.strict = false;
  // Without a frame its process was found to have ended, and the guest ends as well.
  if (frame_) frame_ = arch::find_host_frame(slot_.context.said(), slot_.context.said_at());
  bases_changed_ = true;
  thread_ = thread.id;
  who_.store(child.who(thread_), std::memory_order_relaxed);
  mirror.add(slot_);
  LockGuard scheduling(scheduling_);
  // The host has accepted the same before.
  if (nice_) child.set_nice(thread_, *nice_);
  if (!affinity_.empty()) child.bind(thread_, affinity_);
}

// --- the thread, as the host schedules it ---

std::chrono::nanoseconds ProcessVcpu::time_elsewhere() {
  SharedLock here(machine_.here_);
  const std::int64_t now = used_in_others_ + machine_.child_->time_of(thread_).count();
  std::int64_t known = used_.load(std::memory_order_relaxed);
  while (known < now && !used_.compare_exchange_weak(known, now, std::memory_order_relaxed)) {}
  return std::chrono::nanoseconds(std::max(known, now) - used_before_);
}

int ProcessVcpu::set_nice(int nice) {
  SharedLock here(machine_.here_);
  LockGuard scheduling(scheduling_);
  nice_ = nice;
  return machine_.child_->set_nice(thread_, nice);
}

int ProcessVcpu::set_affinity(std::span<const std::byte> processors) {
  SharedLock here(machine_.here_);
  LockGuard scheduling(scheduling_);
  affinity_.assign(processors.begin(), processors.end());
  return machine_.child_->bind(thread_, processors);
}

bool ProcessVcpu::stays_nice() {
  SharedLock here(machine_.here_);
  LockGuard scheduling(scheduling_);
  if (nice_ && machine_.child_->unset_nice(thread_) == 0) nice_.reset();
  return nice_.has_value();
}

Exit ProcessVcpu::run() {
  for (;;) {
    if (take_kick()) {
      counters_.kicks.add();
      return {};
    }
    const auto fault = arch::fault_of_start(regs_);
    Exit exit = fault ? exception(*fault) : enter_and_wait();
    if (exit.kind == Exit::Kind::PageFault) {
      // What is not mapped only looks absent to the host: the tables decide.
      if (const auto t = machine_.space_->translate(exit.address, 0); t) {
        exit.present = true;
        if (t->allows(exit.access)) continue;
      }
    }
    counters_.count(exit.kind);
    return exit;
  }
}

Exit ProcessVcpu::enter_and_wait() {
  const auto gone = [] { return broken("the guest's host process ended, or does not answer"); };
  UniqueLock stay(staying_);
  while (machine_.moving_.load(std::memory_order_seq_cst)) {
    stay.unlock();
    { LockGuard moved(machine_.moving_lock_); }
    stay.lock();
  }
  if (!frame_) return gone();
  std::vector<Command> commands;
  if (bases_changed_) {
    const auto& call = arch::process_stub::kBaseCall;
    for (std::size_t n = 0; n < arch::host_abi().bases; ++n)
      commands.push_back({call.number, {call.codes[n], bases_[n]}});
    bases_changed_ = false;
  }
  const auto said = slot_.context.said();
  arch::write_host_registers(said, *frame_, regs_, slot_.context.said_at());
  if (fp_) arch::write_host_fp(said, *frame_, *fp_);
  fp_.reset();
  frame_.reset();
  const Pace::Wait how = pace_.next();
  if (how == Pace::Wait::Listen) slot_.context.listen();
  slot_.context.spin(how == Pace::Wait::Look ? Pace::kGuestLooks : Pace::kGuestSleeps);
  const auto entered = machine_.mirror_->enter(slot_, std::exchange(wish_, std::nullopt), std::move(commands));
  if (!entered) {
    if (entered.error() == ESRCH) return gone();
    if (entered.error() == ENXIO) return broken("a page of the guest lies in memory that its process cannot map");
    return broken(
        fmt::format("the host lets the guest's process have no more memory files: {}", std::strerror(entered.error())));
  }
  const auto wanted = [&] {
    return kicked_.load(std::memory_order_seq_cst) || machine_.moving_.load(std::memory_order_seq_cst);
  };
  if (wanted())
    Child::signal(machine_.child_->who(thread_), kick_signal());  // since take_kick(); pairs with kick() and come_out()
  // Guest code may run as long as it likes, but has to come out in time once it is kicked.
  Child::Patience endless(*machine_.child_, false), limited(*machine_.child_);
  Context::Looked looked{};
  if (how == Pace::Wait::Look) {
    looked = slot_.context.look(Pace::kLook);
    pace_.looked(looked);
  }
  const bool answered = looked.answered || slot_.context.sleep([&] { return wanted() ? limited() : endless(); });
  slot_.inside.store(false, std::memory_order_release);
  if (!answered) return gone();
  if (!entered->refused && (!entered->fill || slot_.context.result(*entered->fill) >= 0)) {
    refused_ = 0;
  } else if (++refused_ < kMostRefusals) {
    machine_.mirror_->evict();  // it faults again
  } else {
    machine_.child_->kill();
    return broken("the host lets the guest's process map no more");
  }
  return decode();
}

Exit ProcessVcpu::decode() {
  const auto said = slot_.context.said();
  frame_ = arch::find_host_frame(said, slot_.context.said_at());
  if (!frame_) {
    machine_.child_->kill();
    return broken("the guest's host process does not tell the truth about its trap");
  }
  const arch::HostTrap trap = arch::read_host_trap(said, *frame_, kick_signal());
  regs_ = arch::read_host_registers(said, *frame_);
  if (slot_.context.has_bases()) {
    for (std::size_t n = 0; n < arch::host_abi().bases; ++n) bases_[n] = slot_.context.base(n);
  }
  Exit e;
  using Kind = arch::HostTrap::Kind;
  switch (trap.kind) {
    case Kind::Syscall: e.kind = Exit::Kind::Syscall; return e;
    case Kind::ForeignSyscall:
      // Refused on every machine; the program counter is where the instruction was.
      regs_[arch::host_abi().reg.pc] -= arch::host_abi().syscall_length;
      return exception({.kind = Kind::Exception,
                        .signal = SIGSEGV,
                        .code = SI_KERNEL,
                        .address = 0,
                        .trap = trap.trap,
                        .error = trap.error});
    case Kind::PageFault:
      e.kind = Exit::Kind::PageFault;
      e.address = trap.address;
      e.trap = trap.trap;
      e.error = trap.error;
      e.access = trap.execute ? mm::Access::Execute : trap.write ? mm::Access::Write : mm::Access::Read;
      wish_ = {e.address, e.access};
      return e;
    case Kind::FileFault:
      e.kind = Exit::Kind::HostFault;
      e.address = trap.address;
      return e;
    case Kind::Exception: return exception(trap);
    case Kind::Kick: take_kick(); return e;
    case Kind::Unknown: break;
  }
  machine_.child_->kill();
  return broken(fmt::format("the guest's host process tells of signal {}, which it is never sent", trap.signal));
}

// seq_cst on both sides: either this sees that the thread runs guest code, or run() sees the kick.
void ProcessVcpu::kick() {
  if (kicked_.exchange(true, std::memory_order_seq_cst)) return;
  if (slot_.inside.load(std::memory_order_seq_cst)) Child::signal(who_.load(std::memory_order_relaxed), kick_signal());
}

Status ProcessVcpu::get_fp(FpState& fp) {
  LockGuard stay(staying_);
  if (fp_) fp = *fp_;
  else if (frame_) arch::read_host_fp(slot_.context.said(), *frame_, fp);
  else return failure("the guest's host process has ended");
  return {};
}

Status ProcessVcpu::set_fp(const FpState& fp) {
  LockGuard stay(staying_);
  fp_ = fp;
  return {};
}

void ProcessVcpu::reset_fp() {
  LockGuard stay(staying_);
  arch::reset_host_fp(fp_.emplace());
}

}  // namespace ramet::vmm::process
