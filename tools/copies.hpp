// Many programs from one snapshot.
#pragma once

#include <expected>
#include <functional>
#include <memory>
#include <vector>

#include "vmm/run.hpp"

namespace ramet::tools {

// What continues a file: its memory in a shell of its own.
struct Restored {
  std::unique_ptr<vmm::Shell> shell;
  std::unique_ptr<vmm::Files> files;  // what it has mapped; kept as long as the shell
  std::vector<std::shared_ptr<mm::Bank>> banks;
};

// Runs `copies` programs, `jobs` at a time, each in what `restore` makes, which is called from several threads. Each gets
// all of our standard input; what they write comes in order, and nothing of one before all of the ones before it.
// Returns the first status that is not 0. Errors: no host memory for input and output, no threads.
std::expected<int, vmm::Failure> run_copies(unsigned copies, unsigned jobs, const vmm::RunOptions&,
                                            const std::function<std::expected<Restored, vmm::Failure>()>& restore);

}  // namespace ramet::tools
