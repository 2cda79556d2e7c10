#include "vmm/frozen_vm.hpp"

#include <fmt/format.h>

namespace ramet::vmm {
namespace {

MakeShell spawner(const Shell& of, std::shared_ptr<const mm::FrozenMemory> memory) {
  return [make = of.maker(), memory = std::move(memory),
          touched = of.machine().touched()]() -> std::expected<std::unique_ptr<Shell>, Failure> {
    auto shell = make();
    if (!shell) return shell;
    if (auto r = (*shell)->adopt(memory); !r) return std::unexpected(r.error());
    (*shell)->machine().expect(touched);
    if (auto r = (*shell)->machine().warm_up(); !r) return std::unexpected(r.error());
    return shell;
  };
}

}  // namespace

FrozenVm::FrozenVm(const Shell& of, std::shared_ptr<const mm::FrozenMemory> memory)
    : memory_(std::move(memory)), pool_(spawner(of, memory_), kWarm) {}

std::expected<std::unique_ptr<Shell>, Failure> FrozenVm::spawn() { return pool_.take(); }

void FrozenVm::take_back(std::unique_ptr<Shell> shell) {
  if (shell->reset()) pool_.put(std::move(shell));
}

}  // namespace ramet::vmm
