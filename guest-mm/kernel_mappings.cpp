// The VMM's own mappings, in the largest leaves that fit, and parts of the linear map with permissions of their own.
#include "guest-mm/kernel_mappings.hpp"

#include <algorithm>

#include "guest-mm/address_space_impl.hpp"

namespace ramet::mm {

using Level = PageTable::Level;

static PageTable::Attributes attributes_for(Prot prot, bool user) {
  const bool write = has(prot, Prot::Write);
  return {.write = write, .execute = has(prot, Prot::Exec), .user = user, .accessed = true, .dirty = write};
}

bool KernelMappings::fits(Gva address, Gpa gpa, std::uint64_t length, Prot prot) const {
  return is_aligned(address | gpa | length, kPageSize) && length != 0 && address + (length - 1) >= address &&
         (address >= core_.config.end || address + length <= core_.config.start) && prot != Prot::None &&
         !has(prot, Prot::Write | Prot::Exec);
}

// Whether the range lies below all banks, or in the table bank.
bool KernelMappings::machines_own(Gpa gpa, std::uint64_t length) const {
  const Bank& bank = core_.memory.tables();
  const bool below = gpa < Memory::kTableBase && length <= Memory::kTableBase - gpa;
  return below || (bank.contains(gpa) && length <= bank.end() - gpa);
}

Result<> KernelMappings::map(Gva address, Gpa gpa, std::uint64_t length, Prot prot, bool user) {
  if (!fits(address, gpa, length, prot) || (user && has(prot, Prot::Write)) || !machines_own(gpa, length))
    return fail(Error::Invalid);
  FlushBatch batch = core_.locked();
  return map_locked(address, gpa, length, prot, user, batch);
}

Result<> AddressSpace::map_kernel(Gva address, Gpa gpa, std::uint64_t length, Prot prot) {
  return impl_->kernel.map(address, gpa, length, prot, false);
}

Result<> AddressSpace::map_for_user(Gva address, Gpa gpa, std::uint64_t length, Prot prot) {
  return impl_->kernel.map(address, gpa, length, prot, true);
}

Result<> KernelMappings::map_locked(Gva address, Gpa gpa, std::uint64_t length, Prot prot, bool user,
                                    FlushBatch& batch) {
  PageTable& table = *core_.table;
  Result<> done;
  for (std::uint64_t at = 0; at < length;) {
    const auto whole = [&](Level l) {
      return is_aligned((address + at) | (gpa + at), arch::span_of(l)) && length - at >= arch::span_of(l);
    };
    const Level level = core_.config.giants && whole(Level::Pud) ? Level::Pud
                        : whole(Level::Pmd)                      ? Level::Pmd
                                                                 : Level::Pte;
    const auto where = table.prepare(address + at, level, batch);
    if (!where) {
      done = fail(where.error());
      break;
    }
    if (table.find(address + at).state != PageTable::State::Absent) {
      done = fail(Error::Exists);
      break;
    }
    table.map(*where, address + at, level, gpa + at, 1, attributes_for(prot, user), batch);
    at += arch::span_of(level);
  }
  batch.commit();
  return done;
}

Result<> AddressSpace::map_linear(Gva address) { return impl_->kernel.map_linear(address); }

Result<> KernelMappings::map_linear(Gva address) {
  const Bank& bank = core_.memory.data();
  if (core_.config.format == Format::Arm64Stage2 || !is_aligned(address, arch::span_of(Level::Pud)) ||
      address < core_.config.end || address + bank.size() < address) {
    return fail(Error::Invalid);
  }
  FlushBatch batch = core_.locked();
  if (linear_) return fail(Error::Exists);
  auto done = map_locked(address, bank.base(), bank.size(), Prot::Read | Prot::Write, false, batch);
  if (done) linear_ = address;
  return done;
}

Result<Gva> KernelMappings::linear_locked(Gpa gpa, std::uint64_t length) const {
  const Bank& bank = core_.memory.data();
  if (!linear_ || length == 0 || !is_aligned(gpa | length, kPageSize) || !bank.contains(gpa) ||
      length > bank.end() - gpa) {
    return fail(Error::Invalid);
  }
  return *linear_ + (gpa - bank.base());
}

bool KernelMappings::stays_small_locked(Gva start, Gva end) const {
  return std::ranges::any_of(keep_4k_, [&](const Range& k) { return k.start < end && start < k.end; });
}

Result<> AddressSpace::protect_linear(Gpa gpa, std::uint64_t length, Prot prot) {
  return impl_->kernel.protect_linear(gpa, length, prot);
}

Result<> KernelMappings::protect_linear(Gpa gpa, std::uint64_t length, Prot prot) {
  if (prot == Prot::None || has(prot, Prot::Write | Prot::Exec)) return fail(Error::Invalid);
  FlushBatch batch = core_.locked();
  const auto start = linear_locked(gpa, length);
  if (!start) return fail(start.error());
  auto done = core_.split_ends_locked(*start, *start + length, batch);
  if (done) done = core_.table->unshare_range(*start, *start + length, batch);
  if (done) {
    core_.table->update(
        *start, *start + length,
        [&](const PageTable::Leaf& leaf) {
          auto next = attributes_for(prot, false);
          next.dirty = next.dirty || leaf.attributes.dirty;
          return PageTable::Change{PageTable::State::Present, next};
        },
        batch);
  }
  batch.commit();
  return done;
}

Result<> AddressSpace::keep_linear_4k(Gpa gpa, std::uint64_t length) {
  return impl_->kernel.keep_linear_4k(gpa, length);
}

Result<> KernelMappings::keep_linear_4k(Gpa gpa, std::uint64_t length) {
  FlushBatch batch = core_.locked();
  const auto start = linear_locked(gpa, length);
  if (!start) return fail(start.error());
  Result<> done;
  for (Gva at = align_down(*start, kBlockSize); at < *start + length && done; at += kBlockSize) {
    done = core_.table->split_to(at, Level::Pte, batch);
  }
  if (done) keep_4k_.push_back({*start, *start + length});
  batch.commit();
  return done;
}

}  // namespace ramet::mm
