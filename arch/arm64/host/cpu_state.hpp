// The state in which the CPU of a guest without a kernel starts: the system registers. Formats only; the VMM loads them
// into a CPU.
#pragma once

#include <array>
#include <cstdint>

#include "arch/arm64/user_state.hpp"

namespace ramet::arch::arm64 {

// A system register, by its five numbers in MSR and MRS.
struct SystemRegister {
  std::uint8_t op0, op1, crn, crm, op2;
};
inline constexpr SystemRegister kMemoryModel0{3, 0, 0, 7, 0},
    kMemoryModel1{3, 0, 0, 7, 1};  // ID_AA64MMFR0_EL1, ID_AA64MMFR1_EL1

struct SystemValue {
  SystemRegister which;
  std::uint64_t value;
};

// What the processor sets in page-table entries by itself (FEAT_HAFDBS): the access flag, the dirty state.
struct EntryUpdates {
  bool accessed = false, dirty = false;
  constexpr EntryUpdates operator&(EntryUpdates o) const { return {accessed && o.accessed, dirty && o.dirty}; }
};
constexpr EntryUpdates entry_updates(std::uint64_t memory_model1) {
  return {.accessed = (memory_model1 & 0xf) >= 1, .dirty = (memory_model1 & 0xf) >= 2};
}

// `root`: guest-physical address of the table of the highest level. Its lower half is for addresses up to 2^47, its
// upper half for those from -2^47 on. `stub`: where the stub is mapped. `memory_model0`: the guest's ID_AA64MMFR0_EL1.
std::array<SystemValue, 10> system_registers(std::uint64_t root, std::uint64_t stub, std::uint64_t memory_model0,
                                             EntryUpdates);

inline constexpr std::uint64_t kStubPstate = 0x3c5;  // EL1 with its own stack pointer, all interrupts masked

// The flags with which user code is resumed: its own, at EL0, nothing masked.
constexpr std::uint64_t resume_flags(std::uint64_t f) { return f & kUserFlags; }

// Removes the tag from a fault's address: data accesses ignore the top byte, and the fault shows it as the program gave
// it.
constexpr std::uint64_t without_tag(std::uint64_t address) {
  return static_cast<std::uint64_t>(static_cast<std::int64_t>(address << 8) >> 8);
}

}  // namespace ramet::arch::arm64
