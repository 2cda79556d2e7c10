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

Result<Gpa> TablePool::allocate_kernel() {
  if (kernel_ == first_) return fail(Error::NoMemory);
  return bank_.base() + (kernel_++ << kPageShift);
}

void TablePool::retire(Gpa gpa) {
  // A sealed one waits with the outermost seal that closed it.
  for (Seal& seal : seals_) {
    if (index(gpa) < seal.end) return seal.retired.push_back(gpa);
  }
  retired_.push_back(gpa);
}

Layer::Part TablePool::seal() {
  const std::uint64_t from = sealed_.load(std::memory_order_relaxed);
  seals_.push_back({.users = {}, .end = fresh_, .free = std::move(free_), .retired = std::move(retired_)});
  free_.clear();
  retired_.clear();
  sealed_.store(fresh_, std::memory_order_release);
  return {bank_.base() + (from << kPageShift), bank_.base() + (fresh_ << kPageShift)};
}

bool TablePool::thaw() {
  bool any = false;
  while (!seals_.empty() && seals_.back().users.expired()) {
    Seal seal = std::move(seals_.back());
    seals_.pop_back();
    sealed_.store(seals_.empty() ? first_ : seals_.back().end, std::memory_order_release);
    free_.insert(free_.end(), seal.free.begin(), seal.free.end());
    retired_.insert(retired_.end(), seal.retired.begin(), seal.retired.end());
    any = true;
  }
  return any;
}

std::uint64_t TablePool::used() const {
  std::uint64_t unused = free_.size() + retired_.size();
  for (const Seal& seal : seals_) unused += seal.free.size() + seal.retired.size();
  return fresh_ - first_ - unused;
}

void TablePool::free(Gpa gpa) { free_.push_back(gpa); }

}  // namespace ramet::mm
