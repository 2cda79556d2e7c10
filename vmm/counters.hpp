// Counters by the names that people see.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace ramet::mm {
struct Counters;
}

namespace ramet::vmm {

using Counts = std::vector<std::pair<std::string, std::uint64_t>>;

// The memory manager's, always in the same order.
Counts list(const mm::Counters&);
// Adds two such lists, entry by entry. An empty sum becomes a copy.
void add(Counts& sum, const Counts&);

}  // namespace ramet::vmm
