// Shell: a microVM without a program: machine, memory and address space, ready for one.
#pragma once

#include <cstdint>
#include <expected>
#include <functional>
#include <memory>

#include "guest-mm/address_space.hpp"
#include "vmm/error.hpp"
#include "vmm/make_machine.hpp"

namespace ramet::vmm {

// What --memory may be.
inline constexpr std::uint64_t kMinMemory = 8ull << 20, kMaxMemory = 128ull << 30;

// What can be switched off, so that it can be measured (--without NAME).
struct Techniques {
  bool pinned_cow = true, speculative_faults = true, relaxed_flushes = true, huge_merge = true;
  mm::AddressSpace::ExecSync exec_sync = mm::AddressSpace::ExecSync::Eager;
};

class Shell;
class FrozenVm;

// Errors: no host memory, no VM. Called by any thread.
using MakeShell = std::function<std::expected<std::unique_ptr<Shell>, Failure>()>;

class Shell {
 public:
  // `space`: of all VMs that may share memory with it; null: a new one.
  static std::expected<std::unique_ptr<Shell>, Failure> create(std::uint64_t memory_bytes, const Techniques& = {},
                                                               const MachineChoice& = {},
                                                               std::shared_ptr<mm::PhysicalSpace> space = {});
  // Of parts that belong together already; `make`: how maker() makes others.
  Shell(std::unique_ptr<mm::Memory>, std::unique_ptr<Machine>, std::unique_ptr<mm::AddressSpace>, MakeShell make = {});
  ~Shell();

  Machine& machine() { return *machine_; }
  const Machine& machine() const { return *machine_; }
  mm::AddressSpace& memory() { return *space_; }

  // Makes empty ones with the same settings, that can share memory with this, which need not be there any more.
  MakeShell maker() const;
  // An empty one as maker() makes them: a warm one where there are such.
  std::expected<std::unique_ptr<Shell>, Failure> another() const;
  // One with the same regions and contents, as fork(2) gives them: private memory is copied when either side writes it,
  // shared memory stays shared, what is marked MADV_DONTFORK is left out, and MADV_WIPEONFORK is zeroes there. While
  // other threads of this guest run on, what they write meanwhile is in it or not, as on Linux. Errors: no host memory,
  // no VM.
  std::expected<std::unique_ptr<Shell>, Failure> fork();

  // A snapshot of the memory, for VMs to be spawned from; this one goes on. Other threads of the guest may run
  // meanwhile, see AddressSpace::freeze(). Nothing that the guest has taken over can change the snapshot. Errors: no
  // memory, no host process.
  std::expected<std::shared_ptr<FrozenVm>, Failure> freeze();
  // Becomes a child of the snapshot. Once, before anything was mapped. Errors: no host memory.
  Status adopt(std::shared_ptr<const mm::Snapshot>);
  // Back to the snapshot that it adopted, at the cost of what was written since. No vCPU is in use; devices hold no
  // pages. Errors: it adopted none; pages are pinned. Then nothing has changed.
  Status reset();

  // Where another() has them from instead: warm ones. Null: it makes them. What `take` uses outlives this, or is taken
  // away before it goes.
  void take_others_from(MakeShell take) { take_ = std::move(take); }
  std::uint64_t memory_bytes() const { return memory_bytes_; }
  const Techniques& techniques() const { return techniques_; }
  // What its machine is: never Auto.
  const MachineChoice& choice() const { return choice_; }
  // Why the choice of a machine did not fall on KVM; empty if it did, or was not asked.
  const std::string& passed_over() const { return passed_over_; }
  const std::shared_ptr<mm::PhysicalSpace>& physical_space() const { return physical_space_; }

 private:
  Shell() = default;
  std::uint64_t memory_bytes_ = 0;
  Techniques techniques_;
  MachineChoice choice_;
  std::string passed_over_;
  std::shared_ptr<mm::PhysicalSpace> physical_space_;
  MakeShell take_;  // null: make_
  MakeShell make_;  // null: create()
  std::shared_ptr<const mm::Snapshot> origin_;  // what it adopted to be reset to
  std::unique_ptr<mm::Memory> physical_;  // destroyed last
  std::unique_ptr<Machine> machine_;
  std::unique_ptr<mm::AddressSpace> space_;
};

}  // namespace ramet::vmm
