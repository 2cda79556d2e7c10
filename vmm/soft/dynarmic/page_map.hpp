// What an engine keeps of the guest's page tables: the table that translated code looks at, and the cache of its callbacks.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "vmm/soft/engine.hpp"

namespace ramet::vmm::soft {

inline constexpr std::uint64_t kPage = 4096;
inline constexpr std::uint64_t kAddressEnd = 1ull << kAddressBits;

class PageMap {
 public:
  PageMap() = default;  // of no use before map()
  ~PageMap();
  PageMap(const PageMap&) = delete;
  PageMap& operator=(const PageMap&) = delete;

  // False: the host has no room for the table.
  bool map();
  void** table() const { return table_; }

  // Null: not kept, or not for that.
  std::byte* find(std::uint64_t page, bool write) const {
    const Entry& e = cache_[page / kPage % kEntries];
    return e.page == page && (!write || e.write) ? e.host : nullptr;
  }
  // Keeps the run, `page` in any case.
  void keep(std::uint64_t page, const Memory::Run&);
  void forget(std::uint64_t start, std::uint64_t end);
  void forget_everything();

 private:
  static constexpr std::uint64_t kEntries = 1024;
  static constexpr std::uint64_t kNone = 1;  // no page
  struct Entry {
    std::uint64_t page = kNone;
    std::byte* host = nullptr;
    bool write = false;
  };
  // The table's own pages, of which each holds the entries of so many bytes of guest memory.
  static constexpr std::uint64_t kTableSpan = kPage / sizeof(void*) * kPage;
  bool used(std::uint64_t span) const { return used_[span / 64] >> (span % 64) & 1; }

  void** table_ = nullptr;
  std::vector<std::uint64_t> used_;  // a bit for each page of the table that something was written to
  std::array<Entry, kEntries> cache_;
};

}  // namespace ramet::vmm::soft
