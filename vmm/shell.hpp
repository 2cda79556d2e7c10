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
  // `space`: the guest-physical addresses, common to all VMs that may share memory; null: new ones.
  static std::expected<std::unique_ptr<Shell>, Failure> create(std::uint64_t memory_bytes, const Techniques& = {},
                                                               const MachineChoice& = {},
                                                               std::shared_ptr<mm::PhysicalSpace> space = {});
  // Of parts that belong together already; `make`: what maker() returns.
  Shell(std::unique_ptr<mm::Memory>, std::unique_ptr<Machine>, std::unique_ptr<mm::AddressSpace>, MakeShell make = {});
  ~Shell();

  Machine& machine() { return *machine_; }
  const Machine& machine() const { return *machine_; }
  mm::AddressSpace& memory() { return *space_; }

  // Makes empty shells with the same settings, which can share memory with this one. It may outlive this one.
  MakeShell maker() const;
  // An empty shell as maker() makes them, or a warm one: see take_others_from().
  std::expected<std::unique_ptr<Shell>, Failure> another() const;
  // One with the same regions and contents, as fork(2) gives them: private memory is copied when either side writes it,
  // shared memory stays shared, MADV_DONTFORK memory is left out, and MADV_WIPEONFORK memory is zeroes. What other
  // threads of this guest write meanwhile is in it or not, as on Linux. Errors: no host memory, no VM.
  std::expected<std::unique_ptr<Shell>, Failure> fork();

  // Freezes the memory as it is now, for VMs to be spawned from; this VM goes on. Other threads of the guest may run
  // meanwhile, see AddressSpace::freeze(). Even a guest that took over its host process cannot change what is frozen.
  // Errors: no memory, no host process.
  std::expected<std::shared_ptr<FrozenVm>, Failure> freeze();
  // Makes this VM a child of the frozen memory. Once, before anything was mapped. Errors: no host memory.
  Status adopt(std::shared_ptr<const mm::FrozenMemory>);
  // Makes the memory again what it was after adopt(), at the cost of what was written since. No vCPU may be in use.
  // Errors: nothing was adopted; no host process; devices have pages pinned. Then the memory has not changed.
  Status reset();

  // What another() calls instead of maker()'s function, to take warm shells; null: nothing. What `take` refers to
  // outlives this shell, or is taken away first.
  void take_others_from(MakeShell take) { take_ = std::move(take); }
  std::uint64_t memory_bytes() const { return memory_bytes_; }
  const Techniques& techniques() const { return techniques_; }
  // What its machine is, see MadeMachine.
  const MachineChoice& choice() const { return choice_; }
  const std::string& passed_over() const { return passed_over_; }
  const std::shared_ptr<mm::PhysicalSpace>& physical_space() const { return physical_space_; }

 private:
  Shell() = default;
  std::uint64_t memory_bytes_ = 0;
  Techniques techniques_;
  MachineChoice choice_;
  std::string passed_over_;
  std::shared_ptr<mm::PhysicalSpace> physical_space_;
  // Each may be null, whatever the others are. another() calls take_, or else maker()'s function; that is make_, or
  // else create() with the settings above. origin_ is what was adopted, and what reset() goes back to; adopt() sets it
  // once.
  MakeShell take_, make_;
  std::shared_ptr<const mm::FrozenMemory> origin_;
  std::unique_ptr<mm::Memory> physical_;  // destroyed last
  std::unique_ptr<Machine> machine_;
  std::unique_ptr<mm::AddressSpace> space_;
};

}  // namespace ramet::vmm
