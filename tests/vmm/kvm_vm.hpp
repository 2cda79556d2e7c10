// A machine whose guest's memory is the address space's, and a vCPU of it.
#pragma once

#include "guest-mm/frozen_memory.hpp"
#include "tests/vmm/kvm_guest.hpp"
#include "vmm/kvm/kvm_machine.hpp"

namespace ramet::vmm::testing {

inline std::uint64_t word_at(mm::AddressSpace& space, mm::Gva at) {
  std::uint64_t w = 0;
  EXPECT_TRUE(space.read(at, std::as_writable_bytes(std::span(&w, 1))));
  return w;
}
// Runs on through kicks, and through faults that the address space settles.
inline Exit run_settled(mm::AddressSpace& space, Vcpu& v) {
  for (;;) {
    Exit e = v.run();
    if (e.kind == Exit::Kind::Kicked) continue;
    if (e.kind != Exit::Kind::PageFault) return e;
    const auto done = space.fault(e.address, e.access);
    if (!done) return e;
    if (done->kind == mm::FaultOutcome::Kind::Spurious) v.spurious_fault();
  }
}

struct KvmVm {
  std::unique_ptr<Machine> machine;  // destroyed last but for the memory
  std::unique_ptr<mm::Memory> memory;
  std::unique_ptr<mm::AddressSpace> space;
  Vcpu* vcpu = nullptr;

  explicit KvmVm(const std::shared_ptr<mm::PhysicalSpace>& physical = std::make_shared<mm::PhysicalSpace>(),
                 const std::shared_ptr<const mm::FrozenMemory>& of = {}) {
    machine = std::move(*create_kvm_machine("/dev/kvm"));
    memory = std::move(*mm::Memory::create({.data_bytes = 64ull << 20, .table_bytes = 8ull << 20, .space = physical}));
    EXPECT_TRUE(memory->observe(*machine));
    space = std::move(*mm::AddressSpace::create(kvm::space_for(*machine), *memory, *machine));
    EXPECT_TRUE(machine->attach(*space));
    if (of) {
      EXPECT_TRUE(space->adopt(of));
    }
    vcpu = *machine->acquire_vcpu();
  }
  ~KvmVm() {
    space.reset();
    memory->unobserve();
    machine.reset();
  }
  std::uint64_t word(mm::Gva at) { return word_at(*space, at); }
  Exit run(Vcpu& v) { return run_settled(*space, v); }
};

}  // namespace ramet::vmm::testing
