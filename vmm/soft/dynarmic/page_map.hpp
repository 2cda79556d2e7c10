// What an engine keeps of the guest's page tables, in two tables with a word for each page of the address space, whose
// memory the host gives as it is used. Translated code looks at one of them, the callbacks at the other, which has also
// the pages that must not be in the first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "vmm/soft/engine.hpp"

namespace ramet::vmm::soft {

inline constexpr std::uint64_t kAddressEnd = 1ull << kAddressBits;

// A word for each page, zero until it is set.
class PageWords {
 public:
  PageWords() = default;  // of no use before map()
  ~PageWords();
  PageWords(const PageWords&) = delete;
  PageWords& operator=(const PageWords&) = delete;

  // False: the host has no room for it.
  bool map();
  std::uintptr_t* words() const { return words_; }
  std::uintptr_t get(std::uint64_t address) const { return words_[address / mm::kPageSize]; }
  void set(std::uint64_t address, std::uintptr_t word) {
    used_[address / kSpan / 64] |= 1ull << (address / kSpan % 64);
    words_[address / mm::kPageSize] = word;
  }
  void clear(std::uint64_t start, std::uint64_t end);
  void clear();

 private:
  // Bytes of guest addresses whose words fill one page of the host.
  static constexpr std::uint64_t kSpan = mm::kPageSize / sizeof(std::uintptr_t) * mm::kPageSize;
  template <class F>
  void each_used(std::uint64_t first, std::uint64_t last, F&&);  // spans

  std::uintptr_t* words_ = nullptr;
  std::vector<std::uint64_t> used_;  // a bit for each span whose host page may hold a word that is not zero
};

class PageMap {
 public:
  struct Place {
    std::byte* host = nullptr;  // null: not kept, or not for that
    bool lasting = false;  // see Memory::Run
  };

  // False: the host has no room.
  bool map() { return direct_.map() && others_.map(); }
  void** table() const { return reinterpret_cast<void**>(direct_.words()); }

  // For callbacks. `address` is below kAddressEnd.
  Place find(std::uint64_t address, bool write) const {
    const std::uintptr_t word = others_.get(address);
    if (!(word & (write ? kWrite : kRead))) return {};
    return {reinterpret_cast<std::byte*>(word & ~kFlags) + address % mm::kPageSize, (word & kLasting) != 0};
  }
  // Where so many bytes can be read that lie in one page of lasting memory. Null: ask find(). Any address.
  const std::byte* find_lasting(std::uint64_t address, std::uint64_t bytes) const {
    if (address >= kAddressEnd || address % mm::kPageSize + bytes > mm::kPageSize) return nullptr;
    const std::uintptr_t word = others_.get(address);
    if ((word & (kRead | kLasting)) != (kRead | kLasting)) return nullptr;
    return reinterpret_cast<const std::byte*>(word & ~kFlags) + address % mm::kPageSize;
  }
  void keep(const Memory::Run&);
  void forget(std::uint64_t start, std::uint64_t end);
  void forget_everything();

 private:
  static constexpr std::uintptr_t kRead = 1, kWrite = 2, kLasting = 4, kFlags = 7;
  PageWords direct_;  // host addresses
  PageWords others_;  // host addresses with flags; those of direct_ as well, for accesses that reach over a page's end
};

}  // namespace ramet::vmm::soft
