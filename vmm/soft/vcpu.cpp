#include "vmm/soft/vcpu.hpp"

#include <algorithm>
#include <thread>
#include <utility>

#include "arch/arm64/fault_signal.hpp"
#include "arch/arm64/user_state.hpp"
#include "guest-mm/address_space.hpp"
#include "vmm/arm64_exception.hpp"
#include "vmm/soft/machine.hpp"

namespace ramet::vmm::soft {

namespace arm64 = arch::arm64;

namespace {

constexpr std::size_t kMostNotes = 64;

// From the first byte of both to the last.
CodePiece joined(const CodePiece& a, const CodePiece& b) {
  const unsigned offset = std::min(a.offset, b.offset);
  return {a.frame, offset, std::max(a.offset + a.bytes, b.offset + b.bytes) - offset};
}

}  // namespace

// --- its engine ---

void SoftVcpu::give_engine(std::unique_ptr<Engine> engine) {
  engine_ = std::move(engine);
  bound_ = false;
  LockGuard guard(notes_lock_);
  notes_ = {};
  noted_.store(false, std::memory_order_seq_cst);
}

std::unique_ptr<Engine> SoftVcpu::take_engine() {
  while (kicking_.load(std::memory_order_seq_cst) != 0) std::this_thread::yield();
  return std::move(engine_);
}

void SoftVcpu::recycle() {
  regs_ = arch::arm64::kGuestAbi.initial_registers();
  engine_->set_thread_pointer(0);
  engine_->load_fp({});
  kicked_.store(false, std::memory_order_seq_cst);
}

// --- notes ---

std::uint32_t SoftVcpu::halt_after_note() {
  noted_.store(true, std::memory_order_seq_cst);
  const std::uint32_t inside = inside_.load(std::memory_order_seq_cst);
  if (inside % 2) engine_->halt();
  return inside;
}

std::uint32_t SoftVcpu::note_flush(std::span<const Range> ranges, bool everything) {
  {
    LockGuard guard(notes_lock_);
    if (everything || notes_.ranges.size() + ranges.size() > kMostNotes) {
      notes_.everything = true;
      notes_.ranges.clear();
    } else if (!notes_.everything) {
      notes_.ranges.insert(notes_.ranges.end(), ranges.begin(), ranges.end());
    }
  }
  return halt_after_note();
}

std::uint32_t SoftVcpu::note_code(const CodePiece& piece) {
  {
    LockGuard guard(notes_lock_);
    const auto [at, fresh] = notes_.pieces.try_emplace(piece.frame, piece);
    if (!fresh) at->second = joined(at->second, piece);
  }
  return halt_after_note();
}

void SoftVcpu::wait_until_out(std::uint32_t seen) {
  if (seen % 2 == 0) return;
  inside_.wait(seen, std::memory_order_seq_cst);
}

bool SoftVcpu::enter() {
  inside_.fetch_add(1, std::memory_order_seq_cst);
  if (!noted_.load(std::memory_order_seq_cst)) return true;
  leave();
  carry_out_notes();
  return false;
}

void SoftVcpu::leave() {
  inside_.fetch_add(1, std::memory_order_seq_cst);
  inside_.notify_all();
}

void SoftVcpu::carry_out_notes() {
  Notes notes;
  {
    LockGuard guard(notes_lock_);
    noted_.store(false, std::memory_order_seq_cst);
    notes = std::exchange(notes_, {});
  }
  counters_.flushes.add();
  if (notes.everything) engine_->forget_everything();
  for (const Range& r : notes.ranges) engine_->forget(r.start, r.end);
  for (const auto& [frame, piece] : notes.pieces) engine_->forget_code(piece);
}

// --- what the engine asks ---

std::optional<Memory::Run> SoftVcpu::look(std::uint64_t page, Access access, std::uint64_t reach) {
  const auto t = machine_.space_->translate(page, reach);
  if (!t || !t->allows(access)) return std::nullopt;
  const mm::Memory& memory = machine_.space_->physical();
  const mm::Gpa frame = t->frame + (page - t->start);
  const auto bank = memory.bank_of(frame);
  if (!bank) return std::nullopt;
  const mm::Gpa from = std::max(t->frame, bank->base()), to = std::min(t->frame + t->bytes, bank->end());
  const auto there = bank->there(frame, {from, to});
  if (frame < there.start || frame >= there.end) return std::nullopt;
  Run run{.start = t->start + (there.start - t->frame),
          .end = t->start + (there.end - t->frame),
          .host = bank->at(there.start),
          .frame = there.start,
          .write = t->write,
          .lasting = bank->lasting(),
          .bank = {}};
  if (!memory.data().contains(frame) && !memory.inherited(frame)) run.bank = bank;
  if (access != Access::Execute) fills_.add();
  return run;
}

void SoftVcpu::want_code(std::uint64_t page) {
  const auto region = machine_.space_->find_region(page);
  if (!region || !region->backing || !mm::has(region->prot, mm::Prot::Exec) || mm::has(region->prot, mm::Prot::Write))
    return;
  (void)machine_.space_->fault(page, mm::Access::Execute);  // where it fails, the engine drops its code of the page
}

bool SoftVcpu::bring(mm::Gva address, Access access) {
  const auto t = machine_.space_->translate(address, 0);
  if (!t || !t->allows(access)) return false;
  const mm::Gpa frame = mm::align_down(t->frame + (address - t->start), mm::kPageSize);
  machine_.space_->physical().bring(frame, mm::kPageSize);
  return true;
}

// --- running ---

Exit SoftVcpu::run() {
  if (!std::exchange(bound_, true)) engine_->bind(*this);
  engine_->load(regs_);
  for (;;) {
    if (kicked_.exchange(false, std::memory_order_seq_cst)) {
      engine_->store(regs_);
      counters_.count(Exit::Kind::Kicked);
      return {};
    }
    if (!enter()) continue;
    if (kicked_.load(std::memory_order_seq_cst)) {
      leave();
      continue;
    }
    const Stop stop = engine_->run();
    leave();
    if (stop.kind == Stop::Kind::Halted) continue;
    if (stop.kind == Stop::Kind::Maintained) {
      machine_.maintain(stop.address);
      continue;
    }
    // The tables may allow the access by now, or the page's contents only had to be brought.
    if (stop.kind == Stop::Kind::Fault && bring(stop.address, stop.access)) continue;
    engine_->store(regs_);
    const Exit exit = decode(stop);
    counters_.count(exit.kind);
    return exit;
  }
}

Exit SoftVcpu::decode(const Stop& stop) {
  const auto exception = [&](std::uint64_t esr) {
    return exception_of(esr, stop.address, regs_[arm64::Pc], regs_[arm64::Sp]);
  };
  Exit e;
  switch (stop.kind) {
    case Stop::Kind::Syscall: e.kind = Exit::Kind::Syscall; return e;
    case Stop::Kind::Fault:
      if (stop.access == Access::Execute && stop.address % 4) return exception(arm64::esr_of(arm64::kClassPcAlignment));
      e.kind = Exit::Kind::PageFault;
      e.address = stop.address;
      e.access = stop.access;
      e.present = machine_.space_->translate(stop.address, 0).has_value();
      return e;
    case Stop::Kind::Vanished:
      e.kind = Exit::Kind::HostFault;
      e.address = stop.address;
      return e;
    case Stop::Kind::Undefined: return exception(arm64::esr_of(arm64::kClassUnknown));
    case Stop::Kind::Breakpoint: return exception(arm64::esr_of(arm64::kClassBreakpoint));
    case Stop::Kind::Misaligned: return exception(arm64::esr_of(arm64::kClassData, arm64::kMisaligned));
    case Stop::Kind::Halted:
    case Stop::Kind::Maintained: break;
  }
  return e;
}

// seq_cst on both sides: either this sees that guest code runs, or run() sees the kick.
void SoftVcpu::kick() {
  if (kicked_.exchange(true, std::memory_order_seq_cst)) return;
  kicking_.fetch_add(1, std::memory_order_seq_cst);
  if (inside_.load(std::memory_order_seq_cst) % 2) engine_->halt();
  kicking_.fetch_sub(1, std::memory_order_seq_cst);
}

}  // namespace ramet::vmm::soft
