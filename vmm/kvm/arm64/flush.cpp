// Strict flushes: KvmMachine's side, and what a vCPU does about them when it enters. See FlushState.
#include <cstring>

#include "vmm/kvm/arm64/vcpu.hpp"

namespace ramet::vmm::kvm {

namespace arm64 = arch::arm64;
namespace stub = arch::arm64::stub;

// --- the machine's side ---

std::uint64_t FlushState::advance(const mm::FlushRequest& request) {
  LockGuard hold(lock_);
  if (newest_ <= settled.load(std::memory_order_acquire)) due_.clear();
  due_.add(request);
  return newest_ = generation.fetch_add(1, std::memory_order_seq_cst) + 1;
}

Drops FlushState::due() {
  LockGuard hold(lock_);
  return newest_ <= settled.load(std::memory_order_acquire) ? Drops() : due_;
}

void KvmMachine::flush(const mm::FlushRequest& request) {
  const std::uint64_t generation = flush_.advance(request);
  if (!in_use_older_than(generation)) return;
  // Only the caller's own idle vCPU: KVM waits long when another thread begins to run a vCPU.
  if (KvmVcpu* const callers = callers_vcpu(); callers && callers->try_flush()) return;
  expel_older_than(generation);
}

// The caller's own vCPU drops its translations, or it would fault on each that still forbids the access.
void KvmMachine::flush_relaxed(const mm::FlushRequest& request) {
  if (KvmVcpu* const callers = callers_vcpu()) callers->drop_translations(request);
}

// --- a vCPU's side ---

void KvmVcpu::drop_translations(const mm::FlushRequest& request) { drops_.add(request); }

void KvmVcpu::spurious_fault() {
  if (relaxed_seen_ == machine_.generation()) return;
  counters_.spurious.add();
  relaxed_seen_ = machine_.generation();
  drops_.add_all();
}

bool KvmVcpu::try_flush() {
  if (!busy_.try_lock()) return false;
  LockGuard hold(busy_, kAdopt);
  if (!loaded_) return false;
  const std::uint64_t generation = machine_.flush_.generation.load(std::memory_order_seq_cst);
  const Drops due = machine_.flush_.due();
  if (due.none()) return true;
  if (!run_stub(stub::kFlush, due)) return false;
  counters_.flush_exits.add();
  machine_.flush_.settle(generation);
  return true;
}

void KvmVcpu::announce() {
  FlushState& f = machine_.flush_;
  for (;;) {
    const std::uint64_t g = f.generation.load(std::memory_order_seq_cst);
    guest_generation_.store(g, std::memory_order_seq_cst);
    if (f.generation.load(std::memory_order_seq_cst) != g) {
      leave();
      continue;
    }
    entry_generation_ = g;
    if (f.settled.load(std::memory_order_acquire) < g) drops_.add(f.due());
    return;
  }
}

void KvmVcpu::lay_out_entry() {
  Context& c = context();
  c.regs = regs_;
  c.regs[arm64::Pstate] = arm64::resume_flags(regs_[arm64::Pstate]);
  drops_.write_to(c);
  c.command = (!drops_.none() ? stub::kFlush : 0) | (fp_ == Fp::Page ? stub::kLoadFp : 0);
}

void KvmVcpu::entered() {
  regs_ = context().regs;
  regs_[arm64::Pstate] &= arm64::kUserFlags;
  fp_ = Fp::Cpu;
  if (drops_.none()) return;
  drops_.clear();
  counters_.flushes.add();
  machine_.flush_.settle(entry_generation_);
}

}  // namespace ramet::vmm::kvm
