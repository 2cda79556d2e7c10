#include "vmm/kvm/x86_64/micro_guest.hpp"

#include <fmt/format.h>

#include <atomic>
#include <cstring>

#include "arch/x86_64/user_state.hpp"
#include "vmm/kvm/kvm_machine.hpp"

namespace ramet::vmm::kvm {
namespace {

std::unexpected<Failure> refused(const char* what, mm::Error e) { return failure(fmt::format("{}: {}", what, mm::describe(e))); }

}  // namespace

std::expected<std::unique_ptr<MicroGuest>, Failure> MicroGuest::create(const std::string& device, std::uint64_t table_bytes) {
  auto g = std::make_unique<MicroGuest>();
  auto made = create_kvm_machine(device);
  if (!made) return std::unexpected(made.error());
  g->machine = std::move(*made);
  auto memory = mm::Memory::create({.data_bytes = 8ull << 20, .table_bytes = table_bytes});
  if (!memory) return refused("guest memory", memory.error());
  g->memory = std::move(*memory);
  if (auto told = g->memory->observe(*g->machine); !told) return refused("memslots", told.error());
  auto space = mm::AddressSpace::create({}, *g->memory, *g->machine);
  if (!space) return refused("address space", space.error());
  g->space = std::move(*space);
  if (auto ok = g->machine->attach(*g->space); !ok) return std::unexpected(ok.error());
  if (auto ok = g->map(kCode, g->frame(0), kUserRx); !ok) return std::unexpected(ok.error());
  if (auto ok = g->map(kStack - mm::kPageSize, g->frame(1), kUserRw); !ok) return std::unexpected(ok.error());
  return g;
}

std::expected<mm::Gpa, Failure> MicroGuest::map(mm::Gva va, mm::Gpa gpa, std::uint64_t bits) {
  constexpr std::uint64_t kAddress = 0x000f'ffff'ffff'f000, kTable = kPresent | kWritable | kUser | 0x20;
  mm::Gpa table = space->root();
  for (unsigned shift = 39; shift > 12; shift -= 9) {
    std::uint64_t& entry = words(table)[va >> shift & 511];
    if ((entry & kPresent) == 0) {
      auto fresh = space->allocate_kernel_frame();
      if (!fresh) return refused("table page", fresh.error());
      std::memset(memory->host(*fresh), 0, mm::kPageSize);
      entry = *fresh | kTable;
    }
    table = entry & kAddress;
  }
  // Relaxed: the guest's walker is the other side, and x86 keeps stores in order.
  std::atomic_ref(words(table)[va >> 12 & 511]).store(bits == 0 ? 0 : gpa | bits, std::memory_order_relaxed);
  return table;
}

void MicroGuest::flush(mm::Gva va, mm::Gpa table) {
  mm::FlushRequest::Range range{mm::align_down(va, mm::kPageSize), mm::align_down(va, mm::kPageSize) + mm::kPageSize};
  machine->flush({.ranges = {&range, 1}, .tables = {&table, 1}, .everything = false});
}

mm::Gva MicroGuest::load(std::span<const std::uint8_t> code, std::uint64_t offset) {
  std::memcpy(memory->host(frame(0)) + offset, code.data(), code.size());
  return kCode + offset;
}

std::expected<Vcpu*, Failure> MicroGuest::vcpu() {
  auto v = machine->acquire_vcpu();
  if (v) (*v)->regs()[arch::x86_64::Rip] = kCode, (*v)->regs()[arch::x86_64::Rsp] = kStack;
  return v;
}

}  // namespace ramet::vmm::kvm
