// What a fault finds and how it ends: the words that its classic and its speculative way, and copy on write, have in
// common.
#pragma once

#include <cstdint>
#include <optional>

#include "guest-mm/page_table.hpp"
#include "guest-mm/region.hpp"

namespace ramet::mm {

// Looked up once, and handed on. With the lock it stays so; without it `guard` tells, under the lock of the leaf's
// table, whether the region is still what it was, and the entry is compared with `leaf`.
struct Found {
  const Region& region;
  Gva address = 0;             // of the page
  Access access = Access::Read;
  PageTable::Leaf leaf = {};   // around the address
  PageTable::Guard guard = {}; // empty: with the address-space lock
};

// How a fault was resolved, for the counters.
enum class Resolved { Zero, File, Flipped, Copied, Spurious };

// Published::Done with how it was resolved, or why it has to be tried with the lock.
struct Settled {
  PageTable::Published how = PageTable::Published::Done;
  Resolved resolved = Resolved::Spurious;
  std::optional<PageTable::Level> uniform = {};  // the table of that level around the address could be a leaf now
  bool there = false;          // of an address where nothing was mapped: something is now
};

}  // namespace ramet::mm
