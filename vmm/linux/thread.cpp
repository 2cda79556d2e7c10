// The loop of one guest thread: enter the guest, serve what it came out for, deliver signals, repeat.
#include "vmm/linux/thread.hpp"

#include "arch/x86_64/fault_signal.hpp"
#include "vmm/kick_signal.hpp"
#include "vmm/linux/fatal.hpp"

namespace ramet::vmm {

using namespace arch::x86_64;

void Thread::loop() {
  host_.store(pthread_self(), std::memory_order_release);
  running_.store(true, std::memory_order_release);
  install_kick_signal();
  deliver_signals(*this, kNoResult);
  while (!exited && !process.ending()) handle(vcpu.run());
}

void Thread::handle(const Exit& e) {
  switch (e.kind) {
    case Exit::Kind::Syscall: dispatch(*this); return;  // delivers signals itself: it knows the result
    case Exit::Kind::PageFault: page_fault(e); break;
    case Exit::Kind::Exception: exception(e); break;
    case Exit::Kind::Kicked: break;
    case Exit::Kind::HostFault: send_fault(*this, SIGBUS, BUS_ADRERR, e.address, kVectorPageFault, page_fault_error(true, false, false)); break;
    case Exit::Kind::Broken:
      process.end({Ending::Kind::Broken, 0, e.detail});
      return;
  }
  deliver_signals(*this, kNoResult);
}

void Thread::page_fault(const Exit& e) {
  auto outcome = memory().fault(e.address, e.access);
  if (outcome) {
    if (outcome->kind == mm::FaultOutcome::Kind::Spurious) vcpu.spurious_fault();
    return;
  }
  // Linux does not tell user code what is mapped in the kernel's half: it always looks present.
  const bool present = e.present || static_cast<std::int64_t>(e.address) < 0;
  auto error = page_fault_error(present, e.access == mm::Access::Write, e.access == mm::Access::Execute);
  switch (outcome.error()) {
    case mm::Error::NotPermitted: send_fault(*this, SIGSEGV, SEGV_ACCERR, e.address, kVectorPageFault, error); break;
    case mm::Error::BeyondEnd:
    case mm::Error::Io: send_fault(*this, SIGBUS, BUS_ADRERR, e.address, kVectorPageFault, error); break;
    case mm::Error::NoMemory: process.end(out_of_memory(process)); break;
    default: send_fault(*this, SIGSEGV, SEGV_MAPERR, e.address, kVectorPageFault, error); break;
  }
}

void Thread::exception(const Exit& e) {
  FpState fp;
  bool have_fp = fault_needs_fp(e.vector) && vcpu.get_fp(fp).has_value();
  FaultSignal signal = fault_signal(e.vector, have_fp ? &fp : nullptr);
  send_fault(*this, signal.signal, signal.code, signal.at_pc ? regs().pc() : 0, e.vector, e.error);
}

bool Thread::is_current() const {
  return running_.load(std::memory_order_acquire) && pthread_equal(host_.load(std::memory_order_acquire), pthread_self());
}

void Thread::interrupt() {
  if (running_.load(std::memory_order_acquire)) interruption_.raise(host_.load(std::memory_order_acquire));
  else interruption_.set();  // loop() looks before it enters the guest
  vcpu.kick();
}

std::int64_t Thread::blocking(long number, std::uint64_t a, std::uint64_t b, std::uint64_t c, std::uint64_t d,
                              std::uint64_t e, std::uint64_t f) {
  return interruption_.wait(number, {a, b, c, d, e, f});
}

bool Thread::should_stop_waiting() {
  interruption_.clear();  // first: what comes after this interrupts again
  process.take_forwarded(*this);
  bool stop = process.ending();
  if (!stop) {
    std::lock_guard guard(process.signals.lock);
    stop = ((signals.pending.set | process.signals.pending.set) & ~signals.blocked) != 0 || !signals.faults.empty();
  }
  if (stop) interruption_.set();
  return stop;
}

void Thread::set_temporary_mask(SignalSet set) {
  SignalSet old;
  {
    std::lock_guard guard(process.signals.lock);
    old = signals.blocked;
  }
  set_blocked(*this, set);
  std::lock_guard guard(process.signals.lock);
  signals.saved_mask = old;
}

}  // namespace ramet::vmm
