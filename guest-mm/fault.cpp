// Where faults begin and are counted: first without the address-space lock (speculative_fault.cpp), then, if that
// fails, with it (classic_fault.cpp).
#include <algorithm>

#include "guest-mm/address_space_impl.hpp"

namespace ramet::mm {

Result<FaultOutcome> AddressSpace::fault(Gva address, Access access) {
  address = impl_->core.untagged(address);
  if (access == Access::Execute && impl_->core.tlb.needs_exec_sync()) return impl_->faults.timed_fault(address);
  return impl_->faults.fault(address, access);
}

Result<FaultOutcome> Faults::fault(Gva address, Access access) {
  if (core_.config.speculative_faults) {
    if (const auto done = speculative_fault(align_down(address, kPageSize), access)) return count(*done);
  }
  return classic_fault(address, access);
}

// Adds the time of a fault that grants execution, without its sync, to a mean. Syncs and grants of other threads in
// that time are taken for this fault's; over many faults that matters little.
Result<FaultOutcome> Faults::timed_fault(Gva address) {
  const Counters& counters = core_.counters;
  const std::uint64_t began = core_.tlb.now(), granted = counters.exec_granted, syncs = counters.exec_sync_time;
  const auto done = fault(address, Access::Execute);
  if (counters.exec_granted == granted) return done;
  const std::uint64_t took = core_.tlb.now() - began, in_syncs = counters.exec_sync_time - syncs;
  core_.counters.exec_fault_time.add(took - std::min(took, in_syncs));
  core_.counters.exec_faults.add();
  return done;
}

Result<FaultOutcome> Faults::count(Result<Resolved> resolved) {
  Counters& counters = core_.counters;
  if (!resolved) {
    counters.faults_refused.add();
    return fail(resolved.error());
  }
  switch (*resolved) {
    case Resolved::Zero: counters.faults_zero.add(); break;
    case Resolved::File: counters.faults_file.add(); break;
    case Resolved::Flipped: counters.faults_flipped.add(); break;
    case Resolved::Copied: counters.faults_cow.add(); break;
    case Resolved::Spurious: counters.faults_spurious.add(); return FaultOutcome{FaultOutcome::Kind::Spurious};
  }
  return FaultOutcome{FaultOutcome::Kind::Mapped};
}

}  // namespace ramet::mm
