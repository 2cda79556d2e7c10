// What a fault finds and how it ends: types that both ways of a fault and copy on write have in common.
#pragma once

#include <cstdint>
#include <optional>

#include "guest-mm/page_table.hpp"
#include "guest-mm/region.hpp"

namespace ramet::mm {

// What a fault looked up, once. With the address-space lock the region stays as it is. Without it `guard` tells, under
// the lock of the leaf's table, whether the region has changed, and the entry is compared with `leaf`.
struct Found {
  const Region& region;
  Gva address = 0;             // of the page
  Access access = Access::Read;
  PageTable::Leaf leaf = {};   // around the address
  PageTable::Guard guard = {}; // empty: with the address-space lock
};

// How a fault was resolved, for the counters.
enum class Resolved { Zero, File, Flipped, Copied, Spurious };

// How a fault ended: Published::Done and how it was resolved, or why it has to be tried with the lock.
struct Settled {
  PageTable::Published how = PageTable::Published::Done;
  Resolved resolved = Resolved::Spurious;
  std::optional<PageTable::Level> uniform = {};  // the table of that level around the address could be a leaf now
  bool there = false;          // of an absent page: it is mapped now
};

}  // namespace ramet::mm
