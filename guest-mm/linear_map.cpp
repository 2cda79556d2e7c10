// The VMM's own mappings above the guest's: stub pages and tables (map_kernel), what user code may see of the machine's own
// (map_for_user), and the linear map of guest memory.
#include <algorithm>

#include "guest-mm/address_space_impl.hpp"

namespace ramet::mm {

using Level = PageTable::Level;

static PageTable::Attributes for_own(Prot prot, bool user) {
  const bool write = has(prot, Prot::Write);
  return {.write = write, .execute = has(prot, Prot::Exec), .user = user, .accessed = true, .dirty = write};
}

bool AddressSpace::Impl::own_range(Gva address, Gpa gpa, std::uint64_t length, Prot prot) const {
  return is_aligned(address | gpa | length, kPageSize) && length != 0 && address + (length - 1) >= address &&
         (address >= config.end || address + length <= config.start) && prot != Prot::None && !has(prot, Prot::Write | Prot::Exec);
}

// Below all banks, or in the table bank.
bool AddressSpace::Impl::machines_own(Gpa gpa, std::uint64_t length) const {
  const Bank& bank = memory.tables();
  const bool below = gpa < Memory::kTableBase && length <= Memory::kTableBase - gpa;
  return below || (bank.contains(gpa) && length <= bank.end() - gpa);
}

Result<> AddressSpace::map_kernel(Gva address, Gpa gpa, std::uint64_t length, Prot prot) {
  Impl& m = *impl_;
  if (!m.own_range(address, gpa, length, prot) || !m.machines_own(gpa, length)) return fail(Error::Invalid);
  FlushBatch batch = m.locked();
  return m.map_own_locked(address, gpa, length, prot, false, batch);
}

Result<> AddressSpace::map_for_user(Gva address, Gpa gpa, std::uint64_t length, Prot prot) {
  Impl& m = *impl_;
  if (!m.own_range(address, gpa, length, prot) || has(prot, Prot::Write) || !m.machines_own(gpa, length)) return fail(Error::Invalid);
  FlushBatch batch = m.locked();
  return m.map_own_locked(address, gpa, length, prot, true, batch);
}

Result<> AddressSpace::Impl::map_own_locked(Gva address, Gpa gpa, std::uint64_t length, Prot prot, bool user, FlushBatch& batch) {
  Result<> done;
  for (std::uint64_t at = 0; at < length;) {
    const auto fits = [&](Level l) { return is_aligned((address + at) | (gpa + at), arch::span_of(l)) && length - at >= arch::span_of(l); };
    const Level level = config.giants && fits(Level::Pud) ? Level::Pud : fits(Level::Pmd) ? Level::Pmd : Level::Pte;
    if (done = table->prepare(address + at, level, batch); !done) break;
    if (table->find(address + at).state != PageTable::State::Absent) {
      done = fail(Error::Exists);
      break;
    }
    table->map(address + at, level, gpa + at, 1, for_own(prot, user), batch);
    at += arch::span_of(level);
  }
  batch.commit();
  return done;
}

Result<> AddressSpace::map_linear(Gva address) {
  Impl& m = *impl_;
  const Bank& bank = m.memory.data();
  if (m.config.format == Format::Arm64Stage2 || !is_aligned(address, arch::span_of(Level::Pud)) || address < m.config.end || address + bank.size() < address) return fail(Error::Invalid);
  FlushBatch batch = m.locked();
  if (m.linear) return fail(Error::Exists);
  auto done = m.map_own_locked(address, bank.base(), bank.size(), Prot::Read | Prot::Write, false, batch);
  if (done) m.linear = address;
  return done;
}

// Where the part of the bank lies in the linear map; Invalid if it is not all in the bank.
Result<Gva> AddressSpace::Impl::linear_locked(Gpa gpa, std::uint64_t length) const {
  const Bank& bank = memory.data();
  if (!linear || length == 0 || !is_aligned(gpa | length, kPageSize) || !bank.contains(gpa) || length > bank.end() - gpa) {
    return fail(Error::Invalid);
  }
  return *linear + (gpa - bank.base());
}

Result<> AddressSpace::protect_linear(Gpa gpa, std::uint64_t length, Prot prot) {
  Impl& m = *impl_;
  if (prot == Prot::None || has(prot, Prot::Write | Prot::Exec)) return fail(Error::Invalid);
  FlushBatch batch = m.locked();
  const auto start = m.linear_locked(gpa, length);
  if (!start) return fail(start.error());
  auto done = m.split_ends_locked(*start, *start + length, batch);
  if (done) done = m.table->own_range(*start, *start + length, batch);
  if (done) {
    m.table->update(*start, *start + length, [&](const PageTable::Leaf& leaf) {
      auto next = for_own(prot, false);
      next.dirty = next.dirty || leaf.attributes.dirty;
      return PageTable::Change{PageTable::State::Present, next};
    }, batch);
  }
  batch.commit();
  return done;
}

Result<> AddressSpace::keep_linear_4k(Gpa gpa, std::uint64_t length) {
  Impl& m = *impl_;
  FlushBatch batch = m.locked();
  const auto start = m.linear_locked(gpa, length);
  if (!start) return fail(start.error());
  Result<> done;
  for (Gva at = align_down(*start, kBlockSize); at < *start + length && done; at += kBlockSize) {
    done = m.table->split_to(at, Level::Pte, batch);
  }
  if (done) m.keep_4k.emplace_back(*start, *start + length);
  batch.commit();
  return done;
}

}  // namespace ramet::mm
