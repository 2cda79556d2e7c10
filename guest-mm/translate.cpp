// What the tables say of an address, for machines that keep translations of their own.
#include "guest-mm/address_space_impl.hpp"
#include "guest-mm/rcu.hpp"

namespace ramet::mm {

std::optional<AddressSpace::Translation> AddressSpace::translate(Gva address, std::uint64_t reach) const {
  const Impl& m = *impl_;
  if (address >= m.core.config.end) return std::nullopt;
  rcu::Reader reader;
  const PageTable::Leaf leaf = m.core.table->find(address);
  if (leaf.state != PageTable::State::Present || leaf.hidden || !leaf.attributes.user) return std::nullopt;
  const Extent extent = m.core.table->extent_of(leaf, address, reach);
  return Translation{.start = extent.start,
                     .bytes = extent.pages << kPageShift,
                     .frame = extent.frame,
                     .write = EntryRules::allows(leaf, Access::Write),
                     .execute = EntryRules::allows(leaf, Access::Execute)};
}

}  // namespace ramet::mm
