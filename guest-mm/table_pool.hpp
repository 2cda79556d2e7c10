// Table pool: the pages of page tables, from the table bank, and what is known of each. They never become data
// frames, and data frames never become tables: a data frame can be written by guest code, a table must not.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "guest-mm/bank.hpp"
#include "guest-mm/types.hpp"

namespace ramet::mm {

// One per page of the table bank, zero when the page is handed out.
struct TableInfo {
  std::atomic<bool> locked{false};         // see TableLock
  bool dead = false;                       // taken out of the tree: nothing may be published here. Table lock.
  std::atomic<std::uint16_t> entries{0};   // that are not kNone. Written with the lock; a hint without it.
  std::atomic<std::uint16_t> continuing{0}; // leaves that continue the first, see Walker::count(). Likewise.
};

// The lock of one table, under which its entries change: held for a few stores, or for the walk over one table.
// Order: the address-space lock, then tables from the root down. A fault without the address-space lock takes one
// table lock at most, and only if it is free (try_lock), so that whoever flushes while holding one is never waited for.
class TableLock {
 public:
  explicit TableLock(TableInfo& info) : locked_(info.locked) {
    while (locked_.exchange(true, std::memory_order_acquire)) pause();  // pairs with the release in ~TableLock
  }
  ~TableLock() { locked_.store(false, std::memory_order_release); }
  TableLock(const TableLock&) = delete;
  TableLock& operator=(const TableLock&) = delete;

  struct Adopt {};
  TableLock(TableInfo& info, Adopt) : locked_(info.locked) {}
  static bool try_lock(TableInfo& info) {
    return !info.locked.load(std::memory_order_relaxed) && !info.locked.exchange(true, std::memory_order_acquire);
  }

 private:
  static void pause();  // its holder may not be running
  std::atomic<bool>& locked_;
};

// Under the address-space lock, but for host() and info().
class TablePool {
 public:
  // The memory outlives the pool. Errors: NoMemory (book-keeping).
  static Result<std::unique_ptr<TablePool>> create(Memory&);
  ~TablePool();
  TablePool(const TablePool&) = delete;
  TablePool& operator=(const TablePool&) = delete;

  // A zeroed page. Errors: NoMemory.
  Result<Gpa> allocate();
  // No processor's walker can reach the page any more; faults and dumps without a lock may still look at it. It is
  // handed out again after a grace period (rcu.hpp).
  void retire(Gpa);
  // A page that nobody but the caller has seen.
  void free(Gpa);

  std::byte* host(Gpa gpa) const { return bank_.at(gpa); }
  TableInfo& info(Gpa gpa) const { return infos_[(gpa - bank_.base()) >> kPageShift]; }
  std::uint64_t used() const { return fresh_ - free_.size() - retired_.size(); }

 private:
  // So many are worth a grace period, which costs microseconds.
  static constexpr std::size_t kEnoughRetired = 64;
  explicit TablePool(Memory& memory)
      : memory_(memory), bank_(memory.tables()), known_(std::min(bank_.size(), Memory::kFirstPiece) >> kPageShift) {}
  Memory& memory_;
  const Bank& bank_;
  TableInfo* infos_ = nullptr;        // one per page of the bank, touched as used
  std::uint64_t fresh_ = 0;           // pages from here on were never used
  std::uint64_t known_;               // pages from here on are not yet announced
  std::vector<Gpa> free_, retired_;
};

}  // namespace ramet::mm
