// Allocation of table pages.
#include "guest-mm/table_pool.hpp"

#include <sched.h>
#include <sys/mman.h>

#include <cstring>
#include <new>
#include <utility>

#include "guest-mm/rcu.hpp"

namespace ramet::mm {

void TableMutex::pause() { ::sched_yield(); }

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

std::optional<Gpa> TablePool::take_fresh() {
  const std::uint64_t all = bank_.size() >> kPageShift;
  if (fresh_ == all) return std::nullopt;
  if (fresh_ == known_) {
    const std::uint64_t to = std::min(2 * known_, all);
    if (!memory_.announce(bank_, bank_.base() + (known_ << kPageShift), bank_.base() + (to << kPageShift)))
      return std::nullopt;
    known_ = to;
  }
  const Gpa fresh = bank_.base() + (fresh_++ << kPageShift);
  info(fresh).born.store(last_seal_, std::memory_order_relaxed);
  return fresh;
}

void TablePool::push(TableList& list, Gpa gpa) {
  const auto i = static_cast<std::uint32_t>(index(gpa));
  infos_[i].next = list.first;
  list.first = i;
  if (list.size++ == 0) list.last = i;
}

std::optional<Gpa> TablePool::pop(TableList& list) {
  if (list.empty()) return std::nullopt;
  const std::uint32_t i = list.first;
  list.first = infos_[i].next;
  --list.size;
  return bank_.base() + (std::uint64_t{i} << kPageShift);
}

void TablePool::splice(TableList& to, TableList& from) {
  if (from.empty()) return;
  if (to.empty()) to.last = from.last;
  else infos_[from.last].next = to.first;
  to.first = from.first;
  to.size += std::exchange(from, TableList{}).size;
}

void TablePool::reclaim() {
  rcu::synchronize();
  splice(free_, retired_);
}

Result<Gpa> TablePool::allocate() {
  if (free_.empty() && retired_.size >= kEnoughRetired) reclaim();
  if (free_.empty()) {
    if (const auto fresh = take_fresh()) {
      used_.fetch_add(1, std::memory_order_relaxed);
      return *fresh;
    }
    if (!retired_.empty()) reclaim();
  }
  const auto free = pop(free_);
  if (!free) {
    const auto last = take_stocked();
    return last ? Result<Gpa>(*last) : fail(Error::NoMemory);
  }
  used_.fetch_add(1, std::memory_order_relaxed);
  const Gpa gpa = *free;
  std::memset(host(gpa), 0, kPageSize);
  new (&info(gpa)) TableInfo;
  info(gpa).born.store(last_seal_, std::memory_order_relaxed);
  return gpa;
}

// Pages in free_ are handed out first, and get `born` of the last seal only then.
Result<> TablePool::reserve(std::uint64_t pages) {
  TableList taken;
  Result<> done;
  while (done && taken.size < pages) {
    if (const auto page = allocate()) push(taken, *page);
    else done = fail(page.error());
  }
  used_.fetch_sub(taken.size, std::memory_order_relaxed);
  splice(free_, taken);
  return done;
}

Result<Gpa> TablePool::allocate_kernel() {
  if (kernel_ == first_) return fail(Error::NoMemory);
  return bank_.base() + (kernel_++ << kPageShift);
}

void TablePool::retire(Gpa gpa) {
  used_.fetch_sub(1, std::memory_order_relaxed);
  // A sealed table is freed with the oldest seal that covers it: seals are undone in LIFO order.
  const std::uint32_t born = info(gpa).born.load(std::memory_order_relaxed);
  for (Seal& seal : seals_) {
    if (born < seal.number) return push(seal.dropped, gpa);
  }
  push(retired_, gpa);
}

void TablePool::stock_up() {
  const std::uint64_t spare = left() / 8;  // the rest is for allocate()
  if (stocked() > 0 || spare == 0) return;
  const std::size_t wanted = std::min<std::uint64_t>(stock_next_, spare);
  stock_next_ = std::min(2 * stock_next_, kMostStocked);
  for (std::size_t i = 0; i < wanted; ++i) {
    const auto page = allocate();
    if (!page) return;
    put_back(*page);
  }
}

std::optional<Gpa> TablePool::take_stocked() {
  LockGuard guard(stock_lock_);
  const auto page = pop(stock_);
  if (!page) return std::nullopt;
  used_.fetch_add(1, std::memory_order_relaxed);
  // Born after the last seal that is not undone. A seal made meanwhile covers this page and the table into which the
  // fault would put it.
  info(*page).born.store(sealed_.load(std::memory_order_acquire), std::memory_order_relaxed);
  return page;
}

void TablePool::put_back(Gpa page) {
  used_.fetch_sub(1, std::memory_order_relaxed);
  LockGuard guard(stock_lock_);
  push(stock_, page);
}

Range TablePool::seal() {
  seals_.push_back({.users = {}, .number = last_seal_ + 1, .dropped = {}});
  ++last_seal_;
  sealed_.store(last_seal_, std::memory_order_release);
  return {bank_.base() + (first_ << kPageShift), bank_.base() + (fresh_ << kPageShift)};
}

bool TablePool::thaw() {
  bool any = false;
  while (!seals_.empty() && seals_.back().users.expired()) {
    Seal seal = std::move(seals_.back());
    seals_.pop_back();
    sealed_.store(seals_.empty() ? 0 : seals_.back().number, std::memory_order_release);
    splice(retired_, seal.dropped);
    any = true;
  }
  return any;
}

void TablePool::free(Gpa gpa) {
  used_.fetch_sub(1, std::memory_order_relaxed);
  push(free_, gpa);
}

}  // namespace ramet::mm
