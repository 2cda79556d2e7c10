// Table pool: the pages of page tables, from the table bank, and a TableInfo for each. They never become data frames,
// and data frames never become tables: guest code can write data frames and must not write tables.
//
//   bank:  [ ring 0's own frames | tables, sealed by freezes or not | fresh ]
//
// Sealed tables belong to layers (see FramePool) and do not change while those are in use. Free pages between them go
// on being used: a child could learn from one only the addresses of frames that it has no memslot for.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "guest-mm/bank.hpp"
#include "guest-mm/space_lock.hpp"
#include "guest-mm/thread_annotations.hpp"
#include "guest-mm/types.hpp"

namespace ramet::mm {

// The mutex of one table, a byte in its TableInfo; see TableLock.
class RAMET_CAPABILITY("table lock") TableMutex {
 public:
  // Acquire: pairs with the release in unlock().
  void lock() RAMET_ACQUIRE() {
    while (locked_.exchange(true, std::memory_order_acquire)) pause();
  }
  bool try_lock() RAMET_TRY_ACQUIRE(true) {
    return !locked_.load(std::memory_order_relaxed) && !locked_.exchange(true, std::memory_order_acquire);
  }
  void unlock() RAMET_RELEASE() { locked_.store(false, std::memory_order_release); }
  bool is_locked() const { return locked_.load(std::memory_order_relaxed); }  // a hint while other threads run

 private:
  static void pause();  // gives up the processor: the holder of the lock may not be running
  std::atomic<bool> locked_{false};
};

// One per page of the table bank, zero when the page is handed out.
struct TableInfo {
  TableMutex lock RAMET_ACQUIRED_AFTER(address_space_lock);
  bool dead RAMET_GUARDED_BY(lock) = false;  // taken out of the tree: nothing may be published here
  std::atomic<std::uint16_t> entries{0};   // those that are not kNone. Written with the lock; a hint without it.
  std::atomic<std::uint16_t> continuing{0}; // leaves that continue the first, see Walker::count(). Likewise.
  std::atomic<std::uint16_t> copies{0};    // how often pages of the table were copied on write: a hint
  std::atomic<std::uint32_t> born{0};  // number of the last seal when it was handed out, see TablePool::writable()
  std::uint32_t next = 0;  // the next page in its TableList, if it is in one
};

// A list of table pages, the last pushed first. A page is in one list at most, linked by TableInfo::next: giving tables
// back takes no memory, and cannot fail.
struct TableList {
  static constexpr std::uint32_t kNone = ~0u;
  std::uint32_t first = kNone, last = kNone;  // numbers of pages in the bank
  std::size_t size = 0;
  bool empty() const { return size == 0; }
};

// Holds the lock of one table, under which its entries change: for a few stores, or for the walk over one table.
// Order: the address-space lock, then tables from the root down. A fault without the address-space lock takes one
// table lock at most, and only if it is free (try_lock): the holder may be flushing, which takes long.
class RAMET_SCOPED_CAPABILITY TableLock {
 public:
  explicit TableLock(TableInfo& info) RAMET_ACQUIRE(info.lock) : lock_(info.lock) { lock_.lock(); }
  TableLock(TableInfo& info, Adopt) RAMET_REQUIRES(info.lock) : lock_(info.lock) {}
  ~TableLock() RAMET_RELEASE() { lock_.unlock(); }
  TableLock(const TableLock&) = delete;
  TableLock& operator=(const TableLock&) = delete;

 private:
  TableMutex& lock_;
};

// Pages are taken and given back with the address-space lock, except by way of the stock, which faults without the lock
// use.
class TablePool {
 public:
  // The memory outlives the pool. Errors: NoMemory (book-keeping).
  static Result<std::unique_ptr<TablePool>> create(Memory&);
  ~TablePool();
  TablePool(const TablePool&) = delete;
  TablePool& operator=(const TablePool&) = delete;

  // A zeroed page. Errors: NoMemory.
  Result<Gpa> allocate() RAMET_REQUIRES(address_space_lock);
  // Makes sure that the next `pages` calls of allocate() succeed, even if seals are made before. Errors: NoMemory.
  Result<> reserve(std::uint64_t pages) RAMET_REQUIRES(address_space_lock);
  // A zeroed page for ring 0's own use, which no layer ever contains; never given back. Errors: NoMemory.
  Result<Gpa> allocate_kernel() RAMET_REQUIRES(address_space_lock);
  // No processor's walker can reach the page any more; faults and dumps without a lock may still look at it. It is
  // handed out again after a grace period (rcu.hpp).
  void retire(Gpa) RAMET_REQUIRES(address_space_lock);
  // Gives back a page that was never reachable.
  void free(Gpa) RAMET_REQUIRES(address_space_lock);
  // For a list of the caller's, of tables on their way to retire(). The list's owner says what guards it.
  void push(TableList&, Gpa);
  std::optional<Gpa> pop(TableList&);

  // If the stock is empty, puts zeroed pages into it for faults without the address-space lock; twice as many each
  // time. Called when a fault has found a table missing: more faults will.
  void stock_up() RAMET_REQUIRES(address_space_lock);
  // A page of the stock, without the address-space lock; nullopt if it is empty. put_back(): the page was never
  // reachable.
  std::optional<Gpa> take_stocked() RAMET_EXCLUDES(stock_lock_);
  void put_back(Gpa) RAMET_EXCLUDES(stock_lock_);

  // Seals all tables; returns the part of the bank that holds tables. sealed_for() and thaw(): as FramePool's.
  Range seal() RAMET_REQUIRES(address_space_lock);
  void sealed_for(std::weak_ptr<const Layer> users) RAMET_REQUIRES(address_space_lock) {
    seals_.back().users = std::move(users);
  }
  bool thaw() RAMET_REQUIRES(address_space_lock);
  // Whether the table is this pool's and not sealed. Acquire: pairs with seal(), see AddressSpace::freeze().
  bool writable(Gpa gpa) const {
    return bank_.contains(gpa) &&
           info(gpa).born.load(std::memory_order_relaxed) >= sealed_.load(std::memory_order_acquire);
  }
  void never_seal(Gpa gpa) { info(gpa).born.store(~0u, std::memory_order_relaxed); }
  bool contains(Gpa gpa) const { return bank_.contains(gpa); }

  [[gnu::always_inline]] std::byte* host(Gpa gpa) const {
    return bank_.contains(gpa) ? bank_.at(gpa) : memory_.inherited_table(gpa);
  }
  TableInfo& info(Gpa gpa) const { return infos_[index(gpa)]; }  // precondition: contains(gpa)
  std::uint64_t used() const { return used_.load(std::memory_order_relaxed); }  // without ring 0's
  // An upper bound: the machine may refuse to announce more of the bank.
  std::uint64_t left() const RAMET_REQUIRES(address_space_lock) {
    return free_.size + retired_.size + stocked() + ((bank_.size() >> kPageShift) - fresh_);
  }
  std::uint64_t total() const { return (bank_.size() >> kPageShift) - first_; }

 private:
  // So many retired pages are worth a grace period, which costs microseconds.
  static constexpr std::size_t kEnoughRetired = 64;
  // For ring 0: enough for a thousand vCPUs, or half of a small bank.
  static constexpr std::uint64_t kKernelFrames = 1024;
  struct Seal {
    std::weak_ptr<const Layer> users;
    std::uint32_t number;  // tables with a lower `born` are sealed
    TableList dropped;  // sealed tables that have left our tree
  };
  explicit TablePool(Memory& memory)
      : memory_(memory), bank_(memory.tables()), first_(std::min(kKernelFrames, bank_.size() >> kPageShift >> 1)),
        fresh_(first_), known_(std::min(bank_.size(), Memory::kFirstPiece) >> kPageShift) {}
  // nullopt: no fresh page is left, or the machine has no slot for more.
  std::optional<Gpa> take_fresh() RAMET_REQUIRES(address_space_lock);
  void reclaim() RAMET_REQUIRES(address_space_lock);  // waits for a grace period and frees the retired pages
  void splice(TableList& to, TableList& from);  // puts `from` in front of `to`; `from` is empty then
  std::uint64_t index(Gpa gpa) const { return (gpa - bank_.base()) >> kPageShift; }
  Memory& memory_;
  const Bank& bank_;
  TableInfo* infos_ = nullptr;  // one per page of the bank, touched as used
  const std::uint64_t first_;  // pages before it are ring 0's
  std::uint64_t kernel_ RAMET_GUARDED_BY(address_space_lock) = 0;  // how many of ring 0's are in use
  std::atomic<std::uint64_t> used_{0};  // handed out and not given back; a statistic, it orders nothing
  std::uint64_t fresh_ RAMET_GUARDED_BY(address_space_lock);  // pages from here on were never used
  std::uint64_t known_ RAMET_GUARDED_BY(address_space_lock);  // pages from here on are not yet announced
  TableList free_ RAMET_GUARDED_BY(address_space_lock), retired_ RAMET_GUARDED_BY(address_space_lock);
  static constexpr std::size_t kMostStocked = 64;
  std::size_t stocked() const RAMET_EXCLUDES(stock_lock_) {
    LockGuard guard(stock_lock_);
    return stock_.size;
  }
  mutable Mutex stock_lock_ RAMET_ACQUIRED_AFTER(address_space_lock);  // innermost; after table locks
  TableList stock_ RAMET_GUARDED_BY(stock_lock_);
  std::size_t stock_next_ RAMET_GUARDED_BY(address_space_lock) = 2;  // how many pages the next stock_up() adds
  std::vector<Seal> seals_ RAMET_GUARDED_BY(address_space_lock);
  std::uint32_t last_seal_ RAMET_GUARDED_BY(address_space_lock) = 0;
  std::atomic<std::uint32_t> sealed_{0};  // number of the last seal that is not undone; written with the lock, release
};

}  // namespace ramet::mm
