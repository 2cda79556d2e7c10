// A guest of a few instructions, to find out what the host does: memory, address space, machine, and user
// pages mapped by entries that the caller writes itself, so that it decides what is in the tables and when
// a flush happens. The host probe and the tests of the machine use it.
#pragma once

#include <expected>
#include <memory>
#include <optional>
#include <span>

#include "arch/entry.hpp"
#include "guest-mm/address_space.hpp"
#include "guest-mm/bank.hpp"
#include "vmm/machine.hpp"

namespace ramet::vmm::kvm {

// What an entry allows; nullopt: there is none.
using PageEntry = std::optional<arch::Attributes>;

// Writes the entry of va behind the address space's back, and flushes nothing. `afresh`: not into the tables on the way
// to it, but into copies that replace them. Returns the table page that holds the entry. Errors: no frames left.
std::expected<mm::Gpa, Failure> write_entry(mm::AddressSpace&, mm::Format, mm::Gva va, mm::Gpa gpa, const PageEntry&,
                                            bool afresh = false);

// The configuration that the machine's guest needs.
mm::AddressSpace::Config space_for(const Machine&);

class MicroGuest {
 public:
  // Accessed, and dirty if writable, from the start. kUserRo: for tests.
  static constexpr arch::Attributes kUserRw{.write = true, .dirty = true}, kUserRo{}, kUserRx{.execute = true};
  static constexpr std::nullopt_t kAbsent = std::nullopt;
  // One page of code, one page of stack below kStack; kData is for the caller to map.
  static constexpr mm::Gva kCode = 0x400000, kData = 0x600000, kStack = 0x800000;

  static std::expected<std::unique_ptr<MicroGuest>, Failure> create(const std::string& device = "/dev/kvm",
                                                                    std::uint64_t table_bytes = 2ull << 20);

  // Data frame n < 1024, which the address space does not hand out.
  mm::Gpa frame(unsigned n) const { return memory->data().base() + (4ull << 20) + n * mm::kPageSize; }
  std::uint64_t* words(mm::Gpa gpa) const { return reinterpret_cast<std::uint64_t*>(memory->host(gpa)); }
  std::expected<mm::Gpa, Failure> map(mm::Gva va, mm::Gpa gpa, const PageEntry& entry) {
    return write_entry(*space, machine->needs().format, va, gpa, entry);
  }
  // The strict flush that a change of a live entry needs.
  void flush(mm::Gva va, mm::Gpa table);
  // Copies code into the page at kCode.
  mm::Gva load(std::span<const std::byte> code, std::uint64_t offset = 0);
  // A vCPU that starts at kCode.
  std::expected<Vcpu*, Failure> vcpu();

  std::unique_ptr<Machine> machine;  // destroyed last: the memory's banks leave it
  std::unique_ptr<mm::Memory> memory;
  std::unique_ptr<mm::AddressSpace> space;
};

}  // namespace ramet::vmm::kvm
