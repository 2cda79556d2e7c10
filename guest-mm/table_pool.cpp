// Allocation of table pages.
#include "guest-mm/table_pool.hpp"

#include <sys/mman.h>

#include <cstring>

namespace ramet::mm {

Result<std::unique_ptr<TablePool>> TablePool::create(const Bank& bank) {
  std::unique_ptr<TablePool> pool(new TablePool(bank));
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
    if (fresh_ == bank_.size() >> kPageShift) return fail(Error::NoMemory);
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
