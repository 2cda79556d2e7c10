// Table pool: the pages of page tables, from the table bank. They never become data frames, and data
// frames never become tables: a data frame can be written by guest code, a table must not.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "guest-mm/bank.hpp"
#include "guest-mm/types.hpp"

namespace ramet::mm {

// Not thread-safe: under the address-space lock.
class TablePool {
 public:
  // The memory outlives the pool. Errors: NoMemory (book-keeping).
  static Result<std::unique_ptr<TablePool>> create(Memory&);
  ~TablePool();
  TablePool(const TablePool&) = delete;
  TablePool& operator=(const TablePool&) = delete;

  // A zeroed page. Errors: NoMemory.
  Result<Gpa> allocate();
  // No processor's walker can reach the page any more.
  void free(Gpa);

  std::byte* host(Gpa gpa) const { return bank_.at(gpa); }
  // Entries of the table that are not kNone; kept by the one function that writes entries.
  std::uint16_t& entries(Gpa gpa) { return entries_[(gpa - bank_.base()) >> kPageShift]; }
  std::uint16_t entries(Gpa gpa) const { return entries_[(gpa - bank_.base()) >> kPageShift]; }
  std::uint64_t used() const { return fresh_ - free_.size(); }

 private:
  explicit TablePool(Memory& memory)
      : memory_(memory), bank_(memory.tables()), known_(std::min(bank_.size(), Memory::kFirstPiece) >> kPageShift) {}
  Memory& memory_;
  const Bank& bank_;
  std::uint16_t* entries_ = nullptr;  // one per page of the bank, touched as used
  std::uint64_t fresh_ = 0;           // pages from here on were never used
  std::uint64_t known_;               // pages from here on are not yet announced
  std::vector<Gpa> free_;
};

}  // namespace ramet::mm
