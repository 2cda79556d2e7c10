// Allocation of table pages.
#include "guest-mm/table_pool.hpp"

#include <sched.h>
#include <sys/mman.h>

#include <cstring>
#include <new>

#include "guest-mm/rcu.hpp"

namespace ramet::mm {

void TableLock::pause() { ::sched_yield(); }

Result<std::unique_ptr<TablePool>> TablePool::create(Memory& memory) {
  std::unique_ptr<TablePool> pool(new TablePool(memory));
  const Bank& bank = memory.tables();
  void* infos = ::mmap(nullptr, (bank.size() >> kPageShift) * sizeof(TableInfo), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (infos == MAP_FAILED) return fail(Error::NoMemory);
  pool->infos_ = static_cast<TableInfo*>(infos);
  return pool;
}

TablePool::~TablePool() {
  if (infos_) ::munmap(infos_, (bank_.size() >> kPageShift) * sizeof(TableInfo));
}

Result<Gpa> TablePool::allocate() {
  const std::uint64_t all = bank_.size() >> kPageShift;
  if (free_.empty() && (retired_.size() >= kEnoughRetired || (fresh_ == all && !retired_.empty()))) {
    rcu::synchronize();
    free_.swap(retired_);
  }
  if (free_.empty()) {
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
  new (&info(gpa)) TableInfo;
  return gpa;
}

void TablePool::retire(Gpa gpa) { retired_.push_back(gpa); }

void TablePool::free(Gpa gpa) { free_.push_back(gpa); }

}  // namespace ramet::mm
