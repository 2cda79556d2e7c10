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
// Adds the values of `more` to those of `sum`: both from list(), or `sum` empty, which then becomes a copy.
void add(Counts& sum, const Counts& more);

}  // namespace ramet::vmm
