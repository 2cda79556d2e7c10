// Region: a range of guest-virtual addresses with one protection and one backing (Linux: VMA).
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "guest-mm/backing.hpp"
#include "guest-mm/exec_history.hpp"
#include "guest-mm/fault_around.hpp"
#include "guest-mm/types.hpp"

namespace ramet::mm {

// Tells a fault without the address-space lock whether its region has changed. Odd while the region, or what its
// entries may allow, is being changed, and for ever once the region has been taken out of the map. A thread that
// changes the region holds the address-space lock and calls begin() before it takes the first table lock. A fault calls
// read() before it looks at the region, and unchanged() under the table lock. The table lock orders the two: the fault
// either sees the count changed, or has written its entries before the changing thread gets that lock, and that thread
// finds them.
class SequenceCount {
 public:
  SequenceCount() = default;
  SequenceCount(const SequenceCount&) {}  // a copy is another region, which no fault has read yet
  SequenceCount& operator=(const SequenceCount&) = delete;

  std::uint32_t read() const { return value_.load(std::memory_order_acquire); }  // pairs with end()
  static bool changing(std::uint32_t value) { return value & 1; }
  // Relaxed, here and in begin(): the table lock orders them.
  bool unchanged(std::uint32_t value) const { return value_.load(std::memory_order_relaxed) == value; }
  void begin() { value_.fetch_add(1, std::memory_order_relaxed); }
  void end() { value_.fetch_add(1, std::memory_order_release); }  // pairs with read()

 private:
  std::atomic<std::uint32_t> value_{0};
};

// The AroundState of a region, in which several threads may fault. A hint: nothing is wrong if its parts come from
// different faults.
class AroundHint {
 public:
  AroundHint() = default;
  AroundHint(const AroundHint& o) { store(o.load()); }
  AroundHint& operator=(const AroundHint&) = delete;
  AroundState load() const {
    return {up_.load(std::memory_order_relaxed), down_.load(std::memory_order_relaxed),
            pages_.load(std::memory_order_relaxed)};
  }
  void store(const AroundState& s) {
    up_.store(s.up, std::memory_order_relaxed);
    down_.store(s.down, std::memory_order_relaxed);
    pages_.store(s.pages, std::memory_order_relaxed);
  }

 private:
  std::atomic<Gva> up_{0}, down_{0};  // these pair with nothing
  std::atomic<unsigned> pages_{0};
};

// In the map only the mutable fields of a region change; otherwise it is replaced by another, see region_map.hpp.
struct Region {
  Gva start = 0, end = 0;  // page-aligned, end exclusive
  Prot prot = Prot::None;
  bool shared = false;  // MAP_SHARED
  bool grows_down = false;
  bool dont_fork = false;
  bool wipe_on_fork = false;  // children find zeroes; anonymous and private only
  bool locked = false;  // mlock(2): stays as it is under DontNeed and Free; not inherited
  enum class Huge : std::uint8_t { Default, Always, Never } huge = Huge::Default;
  std::optional<unsigned> node;  // preferred for its frames, see FramePool::allocate()
  std::shared_ptr<Backing> backing;  // null: anonymous
  std::uint64_t offset = 0;  // of start, in backing
  std::string name;
  Prot max_prot = kAllProt;  // what protect() may ask for: less for a shared file opened read-only
  mutable AroundHint around;  // how recent faults went, see fault_around.hpp
  mutable AroundHint copied;  // of the last copy on write: up is where it ended, pages how many it copied
  mutable ExecHistory pages_deferred, blocks_deferred;  // what became of entries that withheld execution
  mutable SequenceCount sequence;

  std::uint64_t length() const { return end - start; }
  bool contains(Gva a) const { return a - start < end - start; }
  std::uint64_t offset_of(Gva a) const { return offset + (a - start); }
  // Whether its pages are those of a shared object (MAP_SHARED), not frames of the VM.
  bool shows_object() const { return shared && backing; }
  // Writable and executable: entries are one or the other at a time.
  bool flips() const { return has(prot, Prot::Write | Prot::Exec); }
};

// Whether a region with that protection allows the access. In every format a page that is present can be read, so any
// permission gives reading, as Linux has it on x86.
constexpr bool permits(Prot prot, Access access) {
  return access == Access::Read ? prot != Prot::None : has(prot, needed(access));
}

}  // namespace ramet::mm
