// Tables by their format. The walkers are instantiated in units of their own, walker_x86_64.cpp and walker_arm64.cpp.
#include "guest-mm/page_table.hpp"

#include "arch/arm64/entry.hpp"
#include "arch/x86_64/entry.hpp"
#include "guest-mm/address_space.hpp"
#include "guest-mm/walker.hpp"

namespace ramet::mm {

extern template class Walker<arch::x86_64::Stage1>;
extern template class Walker<arch::arm64::Stage1>;
extern template class Walker<arch::arm64::Stage2>;

Result<std::unique_ptr<PageTable>> PageTable::create(Format format, const Memory& memory, TablePool& tables,
                                                     const FramePool& frames, Tlb& tlb, Counters& counters) {
  address_space_lock.assume_held();  // nobody else knows the tables yet
  const auto root = tables.allocate();
  if (!root) return fail(root.error());
  counters.tables_allocated.add();
  std::unique_ptr<PageTable> table;
  switch (format) {
    case Format::X86_64Stage1:
      table = std::make_unique<Walker<arch::x86_64::Stage1>>(memory, tables, frames, tlb, counters, *root);
      break;
    case Format::Arm64Stage1:
      table = std::make_unique<Walker<arch::arm64::Stage1>>(memory, tables, frames, tlb, counters, *root);
      break;
    case Format::Arm64Stage2:
      table = std::make_unique<Walker<arch::arm64::Stage2>>(memory, tables, frames, tlb, counters, *root);
      break;
  }
  return table;
}

}  // namespace ramet::mm
