// Many programs from one snapshot.
#pragma once

#include <expected>
#include <functional>

#include "tools/continue.hpp"

namespace ramet::tools {

// Runs `copies` programs, `jobs` at a time, each in what `restore` makes, which is called from several threads. Each
// gets all of our standard input; what they write comes in order, and nothing of one before all of the ones before it.
// Returns the first status that is not 0. Errors: no host memory for input and output, no threads.
std::expected<int, vmm::Failure> run_copies(unsigned copies, unsigned jobs, const vmm::RunOptions&,
                                            const std::function<std::expected<Restored, vmm::Failure>()>& restore);

}  // namespace ramet::tools
