#include "vmm/kvm/micro_guest.hpp"

#include <fmt/format.h>

#include <atomic>
#include <cstring>

#include "arch/arm64/entry.hpp"
#include "arch/x86_64/entry.hpp"
#include "vmm/kvm/kvm_machine.hpp"

namespace ramet::vmm::kvm {
namespace {

std::unexpected<Failure> refused(const char* what, mm::Error e) {
  return failure(fmt::format("{}: {}", what, mm::describe(e)));
}

template <arch::EntryFormat F>
std::expected<mm::Gpa, Failure> write(mm::AddressSpace& space, mm::Gva va, mm::Gpa gpa, const PageEntry& as,
                                      bool afresh) {
  using arch::Level;
  const auto slot = [&](mm::Gpa table, Level l) {
    return std::atomic_ref(reinterpret_cast<arch::Entry*>(space.physical().host(table))[arch::index_of(l, va)]);
  };
  mm::Gpa table = space.root();
  for (const Level l : {Level::Pgd, Level::Pud, Level::Pmd}) {
    const arch::Entry entry = slot(table, l).load(std::memory_order_relaxed);
    if (F::present(entry) && !afresh) {
      table = F::address(entry, l);
      continue;
    }
    const auto fresh = space.allocate_kernel_frame();
    if (!fresh) return refused("table page", fresh.error());
    std::byte* const to = space.physical().host(*fresh);
    if (F::present(entry)) std::memcpy(to, space.physical().host(F::address(entry, l)), mm::kPageSize);
    else std::memset(to, 0, mm::kPageSize);
    F::publish();
    slot(table, l).store(F::table(*fresh), std::memory_order_relaxed);
    table = *fresh;
  }
  slot(table, Level::Pte).store(as ? F::leaf(gpa, Level::Pte, *as) : arch::kNone, std::memory_order_relaxed);
  F::publish();
  return table;
}

}  // namespace

std::expected<mm::Gpa, Failure> write_entry(mm::AddressSpace& space, mm::Format format, mm::Gva va, mm::Gpa gpa,
                                            const PageEntry& as, bool afresh) {
  return format == mm::Format::Arm64Stage1 ? write<arch::arm64::Stage1>(space, va, gpa, as, afresh)
                                           : write<arch::x86_64::Stage1>(space, va, gpa, as, afresh);
}

mm::AddressSpace::Config space_for(const Machine& machine) {
  mm::AddressSpace::Config c;
  c.format = machine.needs().format;
  c.end = machine.abi().user_end, c.mmap_top = machine.abi().mmap_top;
  c.eager_accessed_dirty = machine.features().dear_accessed_dirty;
  return c;
}

std::expected<std::unique_ptr<MicroGuest>, Failure> MicroGuest::create(const std::string& device,
                                                                       std::uint64_t table_bytes) {
  auto g = std::make_unique<MicroGuest>();
  auto made = create_kvm_machine(device);
  if (!made) return std::unexpected(made.error());
  g->machine = std::move(*made);
  auto memory = mm::Memory::create({.data_bytes = 8ull << 20, .table_bytes = table_bytes});
  if (!memory) return refused("guest memory", memory.error());
  g->memory = std::move(*memory);
  if (auto told = g->memory->observe(*g->machine); !told) return refused("memslots", told.error());
  auto space = mm::AddressSpace::create(space_for(*g->machine), *g->memory, *g->machine);
  if (!space) return refused("address space", space.error());
  g->space = std::move(*space);
  if (auto ok = g->machine->attach(*g->space); !ok) return std::unexpected(ok.error());
  if (auto ok = g->map(kCode, g->frame(0), kUserRx); !ok) return std::unexpected(ok.error());
  if (auto ok = g->map(kStack - mm::kPageSize, g->frame(1), kUserRw); !ok) return std::unexpected(ok.error());
  return g;
}

void MicroGuest::flush(mm::Gva va, mm::Gpa table) {
  mm::Range range{mm::align_down(va, mm::kPageSize), mm::align_down(va, mm::kPageSize) + mm::kPageSize};
  machine->flush({.ranges = {&range, 1}, .tables = {&table, 1}, .everything = false});
}

mm::Gva MicroGuest::load(std::span<const std::byte> code, std::uint64_t offset) {
  std::memcpy(memory->host(frame(0)) + offset, code.data(), code.size());
  machine->exec_sync(frame(0), mm::kPageSize);
  return kCode + offset;
}

std::expected<Vcpu*, Failure> MicroGuest::vcpu() {
  auto v = machine->acquire_vcpu();
  if (v) (*v)->regs()[machine->abi().reg.pc] = kCode, (*v)->regs()[machine->abi().reg.sp] = kStack;
  return v;
}

}  // namespace ramet::vmm::kvm
