// FrozenVm: the memory of a VM at one moment, kept in this process, for others to be spawned from. A spawned VM sees
// that memory, copies a page when it writes to it, and can be reset at the cost of what it wrote.
#pragma once

#include <memory>

#include "guest-mm/frozen_memory.hpp"
#include "vmm/shell.hpp"
#include "vmm/shell_pool.hpp"

namespace ramet::vmm {

class FrozenVm {
 public:
  // Of the memory of `of`, whose settings spawned VMs get. For Shell::freeze().
  FrozenVm(const Shell& of, std::shared_ptr<const mm::FrozenMemory>);
  FrozenVm(const FrozenVm&) = delete;
  FrozenVm& operator=(const FrozenVm&) = delete;

  // A VM with that memory, which may outlive this. Takes microseconds if one is warm. From any thread. Errors: no host
  // memory, no VM.
  std::expected<std::unique_ptr<Shell>, Failure> spawn();
  // Resets a spawned VM and keeps it for the next spawn(), or destroys it if it cannot be reset. No vCPU of it may be
  // in use.
  void take_back(std::unique_ptr<Shell>);

  // For programs that spawn often (`ramet` does not): from now on a thread keeps kWarm VMs ready, which take the memory
  // of as many idle VMs. warm(): how many there are.
  void keep_warm() { pool_.start(); }
  std::size_t warm() const { return pool_.warm(); }
  const mm::FrozenMemory& memory() const { return *memory_; }

  static constexpr std::size_t kWarm = 16;

 private:
  const std::shared_ptr<const mm::FrozenMemory> memory_;
  ShellPool pool_;
};

}  // namespace ramet::vmm
