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
// Of the same list. An empty sum becomes what is added.
void add(Counts& sum, const Counts&);

}  // namespace ramet::vmm
