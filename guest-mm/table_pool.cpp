// Allocation of table pages.
#include "guest-mm/table_pool.hpp"

#include <sys/mman.h>

#include <cstring>

namespace ramet::mm {

Result<std::unique_ptr<TablePool>> TablePool::create(Memory& memory) {
  std::unique_ptr<TablePool> pool(new TablePool(memory));
  const Bank& bank = memory.tables();
  void* counts = ::mmap(nullptr, (bank.size() >> kPageShift) * sizeof(std::uint16_t), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (counts == MAP_FAILED) return fail(Error::NoMemory);
  pool->entries_ = static_cast<std::uint16_t*>(counts);
  return pool;
}

TablePool::~TablePool() {
  if (entries_) ::munmap(entries_, (bank_.size() >> kPageShift) * sizeof(std::uint16_t));
}

Result<Gpa> TablePool::allocate() {
  if (free_.empty()) {
    const std::uint64_t all = bank_.size() >> kPageShift;
    if (fresh_ == all) return fail(Error::NoMemory);
    if (fresh_ == known_) {
      const std::uint64_t to = std::min(2 * known_, all);
      const auto told = memory_.announce(bank_, bank_.base() + (known_ << kPageShift), bank_.base() + (to << kPageShift));
      if (!told) return fail(told.error());
      known_ = to;
    }
    return bank_.base() + (fresh_++ << kPageShift);
  }
  const Gpa gpa = free_.back();
  free_.pop_back();
  std::memset(host(gpa), 0, kPageSize);
  entries(gpa) = 0;
  return gpa;
}

void TablePool::free(Gpa gpa) { free_.push_back(gpa); }

}  // namespace ramet::mm
