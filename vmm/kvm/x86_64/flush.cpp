// Strict flushes: KvmMachine's side, and what a vCPU does about them when it enters. See FlushState.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <new>

#include "arch/x86_64/host/stub.hpp"
#include "vmm/kvm/exit_reason.hpp"
#include "vmm/kvm/kick.hpp"
#include "vmm/kvm/x86_64/machine.hpp"
#include "vmm/kvm/x86_64/vcpu.hpp"

namespace ramet::vmm::kvm {

namespace x86 = arch::x86_64;
namespace stub = arch::x86_64::stub;

constexpr std::uint64_t kNever = ~0ull;  // no generation
// Table pages that fit onto the stack in the vCPU's page, with room for the registers and the task segment.
constexpr std::size_t kMaxTouches = 400;
// Length of `pending` from which on it is worth looking for pages listed twice.
constexpr std::size_t kManyPending = 4096;

// --- the machine's side ---

void FlushState::add(std::span<const mm::Gpa> tables) {
  try {
    pending.insert(pending.end(), tables.begin(), tables.end());
  } catch (const std::bad_alloc&) {
    stopped.store(true, std::memory_order_seq_cst);
  }
  if (pending.size() > kManyPending) {
    std::ranges::sort(pending);
    auto twice = std::ranges::unique(pending);
    pending.erase(twice.begin(), twice.end());
  }
}

void KvmMachine::flush(const mm::FlushRequest& request) {
  std::uint64_t generation;
  {
    LockGuard hold(flush_.lock);
    flush_.add(request.tables);
    generation = flush_.generation.fetch_add(1, std::memory_order_seq_cst) + 1;
  }
  if (!in_use_older_than(generation)) return;
  // Where ring 3 runs natively on KVM's shadow tables, touches reach running vCPUs as well: KVM drops the shadows
  // and, before the store completes, what every vCPU has cached of them.
  if (model_.native_ring3 && touch_for_all()) return;
  expel_older_than(generation);
}

bool KvmMachine::touch_for_all() {
  if (KvmVcpu* const callers = callers_vcpu(); callers && callers->try_touch_pending()) return true;
  return vcpus_.any([](KvmVcpu& v) { return v.try_touch_pending(); });
}

// The caller's own vCPU drops its translations, or it would fault on each that still forbids the access. Shadow paging
// needs no drop: KVM reads the tables again before it passes such a fault on.
void KvmMachine::flush_relaxed(const mm::FlushRequest&) {
  if (model_.native_ring3) return;
  if (KvmVcpu* const callers = callers_vcpu()) callers->drop_translations();
}

// --- a vCPU's side ---

void KvmVcpu::drop_translations() {
  relaxed_seen_ = machine_.generation();
  reloaded_ = kNever;
}

void KvmVcpu::spurious_fault() {
  if (relaxed_seen_ == machine_.generation()) return;
  counters_.spurious.add();
  if (machine_.model_.native_ring3) relaxed_seen_ = machine_.generation();
  else drop_translations();
}

bool KvmVcpu::try_touch_pending() {
  if (!busy_.try_lock()) return false;
  LockGuard hold(busy_, kAdopt);
  try {
    return prepare() && touch_pending();
  } catch (const std::bad_alloc&) {  // for the text of an error
    machine_.flush_.stopped.store(true, std::memory_order_seq_cst);
    return false;
  }
}

Status KvmVcpu::warm_up() {
  LockGuard hold(busy_);
  tid_.store(prepare_thread_for_kicks(), std::memory_order_relaxed);
  if (auto ok = prepare(); !ok) return ok;
  if (auto ok = touch_pending(); !ok) return ok;
  const mm::Gpa root = machine_.kernel_.root();
  return touch({&root, 1});
}

Status KvmVcpu::announce() {
  FlushState& f = machine_.flush_;
  for (;;) {
    std::uint64_t g = f.generation.load(std::memory_order_seq_cst);
    if (f.stopped.load(std::memory_order_seq_cst)) return failure("the host has no memory for a flush");
    bool touches_due = f.settled.load(std::memory_order_acquire) < g;
    if (touches_due && machine_.live_.load(std::memory_order_seq_cst) > 1) {
      if (auto ok = touch_pending(); !ok) return ok;
      touches_due = false;
    }
    guest_generation_.store(g, std::memory_order_seq_cst);
    bool current = f.generation.load(std::memory_order_seq_cst) == g;
    // Alone, touches ride along: nobody can run user code before this vCPU has done them.
    bool alone = !touches_due || machine_.live_.load(std::memory_order_seq_cst) == 1;
    if (current && alone) {
      if (touches_due) {
        LockGuard hold(f.lock);
        riding_.swap(f.pending);
      }
      if (riding_.size() > kMaxTouches) {
        if (auto ok = touch(std::span(riding_).subspan(kMaxTouches)); !ok) {
          leave();
          return ok;
        }
        riding_.resize(kMaxTouches);
      }
      entry_generation_ = g;
      if (in_user_ && reloaded_ != g)
        if (auto ok = load_ring0(); !ok) {
          leave();
          return ok;
        }
      return {};
    }
    leave();
  }
}

void KvmVcpu::resume_at(std::uint64_t stub_offset, std::uint64_t stack) {
  sync().rip = KernelHalf::kStubPage + stub_offset;
  sync().rsp = stack;
  sync().rflags = 2;
  run_->kvm_dirty_regs = KVM_SYNC_X86_REGS;
}

// The stub's way back that this entry needs, with what it pops. See stub.S.
void KvmVcpu::lay_out_entry() {
  std::memcpy(&sync(), regs_.word.data(), sizeof(kvm_regs));
  if (in_user_) {
    sync().rflags = x86::resume_flags(regs_[x86::Rflags]);
    run_->kvm_dirty_regs = KVM_SYNC_X86_REGS;
    return;
  }
  x86::TrapFrame frame{regs_[x86::Rip], x86::kUserCs, x86::resume_flags(regs_[x86::Rflags]), regs_[x86::Rsp],
                       x86::kUserSs};
  std::uint64_t sp = stack_top() - sizeof frame;
  std::memcpy(stack_word(sp), &frame, sizeof frame);
  auto push = [&](std::uint64_t value) { *stack_word(sp -= 8) = value; };
  if (reloaded_ == entry_generation_) return resume_at(stub::resume(), sp);
  push(regs_[x86::Rax]);
  sync().rax = machine_.kernel_.root();
  if (riding_.empty()) return resume_at(stub::reload(), sp);
  push(regs_[x86::Rcx]);
  push(regs_[x86::Rdi]);
  for (mm::Gpa table : riding_) push(machine_.kernel_.linear(table));
  sync().rcx = riding_.size();
  resume_at(stub::flush(), sp);
}

void KvmVcpu::entered() {
  if (reloaded_ == entry_generation_) return;
  reloaded_ = entry_generation_;
  counters_.flushes.add();
  riding_.clear();
  // The touches that were due rode along, as this vCPU was alone; or they were done before, and this changes nothing.
  machine_.flush_.settle(entry_generation_);
}

// The touches may not have happened: they are pending again, for the next vCPU that enters.
void KvmVcpu::not_entered() {
  if (riding_.empty()) return;
  LockGuard hold(machine_.flush_.lock);
  machine_.flush_.add(riding_);
  riding_.clear();
}

// vCPUs that enter meanwhile and find touches due wait for f.touching, then find that they are done.
Status KvmVcpu::touch_pending() {
  FlushState& f = machine_.flush_;
  LockGuard hold(f.touching);
  std::vector<mm::Gpa> tables;
  std::uint64_t g;
  {
    LockGuard hold_pending(f.lock);
    tables.swap(f.pending);
    g = f.generation.load(std::memory_order_relaxed);
  }
  if (f.settled.load(std::memory_order_relaxed) >= g) return {};
  if (auto ok = touch(tables); !ok) {
    LockGuard hold_pending(f.lock);
    f.add(tables);
    return ok;
  }
  f.settle(g);
  return {};
}

// Runs the stub for nothing but touches. The vCPU has to be in ring 0 for that, which costs it its place in
// user code, not user code's registers.
Status KvmVcpu::touch(std::span<const mm::Gpa> tables) {
  if (tables.empty()) return {};
  if (in_user_)
    if (auto ok = load_ring0(); !ok) return ok;
  while (!tables.empty()) {
    auto part = tables.first(std::min(tables.size(), kMaxTouches));
    std::uint64_t sp = stack_top();
    for (mm::Gpa table : part) *stack_word(sp -= 8) = machine_.kernel_.linear(table);
    sync().rcx = part.size();
    sync().rax = machine_.kernel_.root();
    resume_at(stub::flush_only(), sp);
    int error = run_kvm();
    if (error == EINTR) {
      // The touches are repeated; the kick is answered by the next run() of this vCPU.
      std::atomic_ref(run_->immediate_exit).store(0, std::memory_order_seq_cst);
      kicked_.store(true, std::memory_order_seq_cst);
      continue;
    }
    if (error != 0) return failure(fmt::format("flush: KVM_RUN: {}", std::strerror(error)));
    if (run_->exit_reason != KVM_EXIT_IO || run_->io.port != stub::kFlushedPort)
      return failure("flush: " + describe_exit(*run_));
    counters_.flush_exits.add();
    tables = tables.subspan(part.size());
  }
  return {};
}

}  // namespace ramet::vmm::kvm
