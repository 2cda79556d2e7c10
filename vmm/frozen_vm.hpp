// FrozenVm: the memory of a VM at one moment, in this process, for others to be grown from. A VM that was spawned sees
// that memory, takes a page for itself where it writes, and can be reset at the cost of what it wrote.
#pragma once

#include <memory>

#include "guest-mm/snapshot.hpp"
#include "vmm/shell.hpp"
#include "vmm/shell_pool.hpp"

namespace ramet::vmm {

class FrozenVm {
 public:
  // What Shell::freeze() took of a VM with these settings.
  FrozenVm(const Shell& of, std::shared_ptr<const mm::Snapshot>);
  FrozenVm(const FrozenVm&) = delete;
  FrozenVm& operator=(const FrozenVm&) = delete;

  // A VM with that memory: a warm one where there is one, which takes microseconds. It outlives the snapshot if need
  // be. From any thread. Errors: no host memory, no VM.
  std::expected<std::unique_ptr<Shell>, Failure> spawn();
  // Resets it and keeps it for the next spawn(). No vCPU of it is in use. If it cannot be reset it is destroyed.
  void take_back(std::unique_ptr<Shell>);

  // From now on a thread keeps some VMs ready (kWarm), which costs what so many idle VMs cost.
  void keep_warm() { pool_.start(); }
  std::size_t warm() const { return pool_.warm(); }
  const mm::Snapshot& memory() const { return *memory_; }

  static constexpr std::size_t kWarm = 16;

 private:
  const std::shared_ptr<const mm::Snapshot> memory_;
  ShellPool pool_;
};

}  // namespace ramet::vmm
